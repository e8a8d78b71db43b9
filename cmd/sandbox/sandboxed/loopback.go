package sandboxed

import (
	"net"

	"tailscale.com/net/netmon"
	"tailscale.com/net/netns"
)

// OnLoopback makes this process's Tailscale nodes see loopback as the only interface of
// the machine. They run without a network, and send no packet to one. Call it before the
// first node starts.
func OnLoopback() {
	// Otherwise, sockets bind to the interface of the default route.
	netns.SetEnabled(false)
	netmon.RegisterInterfaceGetter(func() ([]netmon.Interface, error) {
		return []netmon.Interface{{
			Interface: &net.Interface{Index: 1, MTU: 16384, Name: "lo", Flags: net.FlagUp | net.FlagRunning | net.FlagLoopback},
			AltAddrs: []net.Addr{
				&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
				// The engine waits for an address outside of 127.0.0.0/8. It does not
				// announce this one to peers, as the interface is loopback.
				&net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(32, 32)},
			},
		}}, nil
	})
}
