package tailnet

import (
	"io"
	"os"
	"slices"
	"sync"

	"github.com/tailscale/wireguard-go/tun"

	"subnetrouter/internal/packet"

	"tailscale.com/net/tstun"
)

// batchSize is the number of packets that WireGuard reads or writes at once, at most.
const batchSize = 128

// A slab's gaps are as large as WireGuard requires.
const _ = uint(packet.SlabGap - tun.ReadPacketSpacing)

// flowDevice is the engine's TUN device in userspace mode. The engine writes to it
// packets of peers for addresses behind the router that passed the access rules, and
// reads packets to peers from it, in batches. It is the only type that implements
// WireGuard's device interface, which changes between versions: [Forwarder] is the
// contract that does not.
type flowDevice struct {
	node    *Node
	forward Forwarder
	mtu     int
	events  chan tun.Event // no event is ever sent; closed by Close
	once    sync.Once      // for Close

	// The fields below belong to the goroutine of the engine that calls Read.
	out     packet.Slab // over the engine's buffer, during a call
	routed  packet.Slab // the packets that [Handover].Route is asked about
	scratch []byte      // the memory of routed, allocated by the first hand-over
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

// Read implements [tun.Reader]. The engine owns slab and packets, and one goroutine of it calls
// Read.
func (d *flowDevice) Read(slab []byte, packets []tun.ReadPacket) (int, error) {
	d.out.Reset(slab, len(packets))
	receive := d.forward.Receive
	if h := d.node.handover; h != nil && h.Active() {
		receive = d.receiveRouted
	}
	if receive(&d.out) != nil {
		return 0, io.EOF // the Forwarder was closed: the engine's reader ends
	}
	for i := range d.out.Len() {
		p, offset := d.out.Packet(i)
		packets[i] = tun.ReadPacket{Offset: offset, Size: len(p)}
	}
	return d.out.Len(), nil
}

// During a hand-over a packet may leave twice: directly, and in an envelope, which adds some 100
// bytes. These many packets and bytes fit twice into the engine's slab of 128 KiB.
const (
	routedBatch = 32
	routedBytes = 56 << 10
)

// receiveRouted adds packets to a slab as [Forwarder].Receive does, after [Handover].Route has
// sent them to clients, directly or in datagrams to other routers.
func (d *flowDevice) receiveRouted(to *packet.Slab) error {
	if d.scratch == nil {
		d.scratch = make([]byte, routedBytes)
	}
	d.routed.Reset(d.scratch, routedBatch)
	if err := d.forward.Receive(&d.routed); err != nil {
		return err
	}
	for i := range d.routed.Len() {
		p, _ := d.routed.Packet(i)
		direct, via, prefix := d.node.handover.Route(p)
		if direct {
			addCopy(to, p)
		}
		if via.IsValid() {
			addCopy(to, d.node.envelope(via, slices.Concat(prefix, p)))
		}
	}
	return nil
}

// addCopy adds a copy of p to a slab, unless p is empty. A packet that does not fit is lost, as
// on any link.
func addCopy(to *packet.Slab, p []byte) {
	if len(p) > 0 {
		copy(to.Add(len(p)), p)
	}
}

func (d *flowDevice) Close() error {
	d.once.Do(func() { close(d.events) })
	return nil
}

func (d *flowDevice) File() *os.File           { return nil }
func (d *flowDevice) MTU() (int, error)        { return d.mtu, nil }
func (d *flowDevice) Name() (string, error)    { return "subnetrouter", nil }
func (d *flowDevice) Events() <-chan tun.Event { return d.events }
func (d *flowDevice) BatchSize() int           { return batchSize }

// IsFakeTun reports to the engine that the kernel has no such device.
func (d *flowDevice) IsFakeTun() bool { return true }

// injectReplies sends the Forwarder's packets to peers in kernel mode, where the device is
// the kernel's and only 4via6 traffic passes through the Forwarder. It returns when the
// Forwarder is closed.
func (n *Node) injectReplies(t *tstun.Wrapper) {
	var slab packet.Slab
	for buf := make([]byte, 1<<17); ; {
		slab.Reset(buf, batchSize)
		if n.forwarder.Receive(&slab) != nil {
			return
		}
		for i := range slab.Len() {
			p, _ := slab.Packet(i)
			t.InjectOutbound(slices.Clone(p))
		}
	}
}
