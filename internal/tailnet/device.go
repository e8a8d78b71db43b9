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

// flowDevice stands where a TUN device would: the engine writes to it what peers
// sent to addresses behind the router, after the tailnet's access rules, and
// reads from it what goes back, many packets at a time both ways. It is the only
// place that knows the device interface of WireGuard, which moves between
// versions.
type flowDevice struct {
	node    *Node
	forward Forwarder
	mtu     int
	events  chan tun.Event
	once    sync.Once
}

var _ tun.Device = (*flowDevice)(nil)

func newFlowDevice(n *Node) *flowDevice {
	return &flowDevice{node: n, forward: n.forwarder, mtu: int(tstun.DefaultTUNMTU()), events: make(chan tun.Event)}
}

func (d *flowDevice) Write(packets [][]byte, offset int) (int, error) {
	d.forward.Deliver(packets, offset)
	return len(packets), nil
}

func (d *flowDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	handing := d.node.handover
	if handing == nil || !handing.Active() {
		n, err := d.forward.Receive(bufs, sizes, offset)
		if err != nil {
			return 0, io.EOF // closed: the engine's reader ends
		}
		return n, nil
	}
	// Room for a second copy of each.
	n, err := d.forward.Receive(bufs[:max(1, len(bufs)/2)], sizes, offset)
	if err != nil {
		return 0, io.EOF
	}
	return d.divert(bufs, sizes, offset, n), nil
}

// divert sends packets 0 to n to their clients by way of other routers where they
// are to go so, and reports how many packets that comes to.
func (d *flowDevice) divert(bufs [][]byte, sizes []int, offset, n int) int {
	var straight, wrapped [][]byte
	for i := range n {
		p := bufs[i][offset : offset+sizes[i]]
		direct, via, prefix := d.node.handover.Route(p)
		if direct {
			straight = append(straight, bytes.Clone(p))
		}
		if !via.IsValid() {
			continue
		}
		if e := d.node.envelope(via, slices.Concat(prefix, p)); e != nil {
			wrapped = append(wrapped, e)
		}
	}
	all := append(straight, wrapped...)
	all = all[:min(len(all), len(bufs))] // of a vector of one, the direct copy
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

// IsFakeTun tells the engine that there is no device in the kernel.
func (d *flowDevice) IsFakeTun() bool { return true }

// pump brings back what the Forwarder answers in kernel mode, where the device is
// the kernel's and only 4via6 goes through the Forwarder.
func (n *Node) pump(t *tstun.Wrapper) {
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
