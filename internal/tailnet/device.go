package tailnet

import (
	"bytes"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/tailscale/wireguard-go/tun"

	"tailscale.com/net/tstun"
)

// flowDevice is the engine's TUN device in userspace mode. The engine writes to it
// packets of peers for addresses behind the router that passed the access rules, and
// reads packets to peers from it, in batches. It is the only type that implements
// WireGuard's device interface, which changes between versions.
type flowDevice struct {
	node    *Node
	forward Forwarder
	mtu     int
	events  chan tun.Event // no event is ever sent; closed by Close
	once    sync.Once      // for Close
}

var _ tun.Device = (*flowDevice)(nil)

func newFlowDevice(n *Node) *flowDevice {
	return &flowDevice{node: n, forward: n.forwarder, mtu: int(tstun.DefaultTUNMTU()), events: make(chan tun.Event)}
}

// Write implements [tun.Device]. WireGuard owns the packets.
func (d *flowDevice) Write(packets [][]byte, offset int) (int, error) {
	d.forward.Deliver(packets, offset)
	return len(packets), nil
}

// Read implements [tun.Device]. The engine owns bufs, and one goroutine of it calls Read.
func (d *flowDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	handover := d.node.handover
	if handover == nil || !handover.Active() {
		n, err := d.forward.Receive(bufs, sizes, offset)
		if err != nil {
			return 0, io.EOF // the Forwarder was closed: the engine's reader ends
		}
		return n, nil
	}
	// Half of bufs, so that there is room for a second copy of each packet.
	n, err := d.forward.Receive(bufs[:max(1, len(bufs)/2)], sizes, offset)
	if err != nil {
		return 0, io.EOF
	}
	return d.routeToClients(bufs, sizes, offset, n), nil
}

// routeToClients replaces the first n packets in bufs by those that [Handover].Route has
// sent to clients, directly or in datagrams to other routers, and returns their number.
func (d *flowDevice) routeToClients(bufs [][]byte, sizes []int, offset, n int) int {
	var unchanged, relayed [][]byte
	for i := range n {
		p := bufs[i][offset : offset+sizes[i]]
		direct, via, prefix := d.node.handover.Route(p)
		if direct {
			unchanged = append(unchanged, bytes.Clone(p))
		}
		if !via.IsValid() {
			continue
		}
		if e := d.node.envelope(via, slices.Concat(prefix, p)); e != nil {
			relayed = append(relayed, e)
		}
	}
	all := append(unchanged, relayed...)
	all = all[:min(len(all), len(bufs))] // if bufs has room for one packet only, the direct copy
	for i, p := range all {
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(all)
}

func (d *flowDevice) Close() error {
	d.once.Do(func() { close(d.events) })
	return nil
}

func (d *flowDevice) File() *os.File           { return nil }
func (d *flowDevice) MTU() (int, error)        { return d.mtu, nil }
func (d *flowDevice) Name() (string, error)    { return "subnetrouter", nil }
func (d *flowDevice) Events() <-chan tun.Event { return d.events }
func (d *flowDevice) BatchSize() int           { return 128 }

// IsFakeTun reports to the engine that the kernel has no such device.
func (d *flowDevice) IsFakeTun() bool { return true }

// injectReplies sends the Forwarder's packets to peers in kernel mode, where the device is
// the kernel's and only 4via6 traffic passes through the Forwarder. It returns when the
// Forwarder is closed.
func (n *Node) injectReplies(t *tstun.Wrapper) {
	const batch, size = 32, 2 << 10
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	for {
		count, err := n.forwarder.Receive(bufs, sizes, 0)
		if err != nil {
			return
		}
		for i := range count {
			t.InjectOutbound(append([]byte(nil), bufs[i][:sizes[i]]...))
		}
	}
}
