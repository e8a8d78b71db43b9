package sandboxed

import (
	"net"

	"tailscale.com/net/netmon"
	"tailscale.com/net/netns"
)

// OnLoopback makes this process's Tailscale nodes see a machine that has one
// interface, loopback: they run without a network, and none that there is gets
// to see a packet. Call it before the first one starts.
func OnLoopback() {
	// Where it is on, sockets bind to the interface of the default route.
	netns.SetEnabled(false)
	netmon.RegisterInterfaceGetter(func() ([]netmon.Interface, error) {
		return []netmon.Interface{{
			Interface: &net.Interface{Index: 1, MTU: 16384, Name: "lo", Flags: net.FlagUp | net.FlagRunning | net.FlagLoopback},
			AltAddrs: []net.Addr{
				&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
				// The engine rests until it sees an address beyond 127.0.0.0/8.
				// As this interface is loopback, it does not offer it to peers.
				&net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(32, 32)},
			},
		}}, nil
	})
}
