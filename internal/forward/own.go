package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"subnetrouter/internal/packet"
)

// own is this node as a host of the tailnet: the traffic of its own addresses, which it neither
// forwards nor counts as flows. It answers echo requests. Anything else needs a listener on its
// port: other TCP segments are reset, and other datagrams get an ICMP error. There is no listener
// by default. It also opens connections to peers: DialTCP, DialUDP.
type own struct {
	sender *sender
	drops  *drops

	tcp *ownTCP

	mu        sync.RWMutex              // covers the fields below
	udp       map[uint16]*ownPacketConn // by port
	datagrams map[flowKey]*ownDatagrams // client is the peer, dst the node itself
	closed    bool
}

func newOwn(c *core, control Congestion) *own {
	return &own{sender: c.sender, drops: c.drops, udp: map[uint16]*ownPacketConn{}, datagrams: map[flowKey]*ownDatagrams{}, tcp: newOwnTCP(c, control, maxOwnConnsPerPort)}
}

// DeliverOwn takes an IP packet that a peer sent to one of this node's own addresses. It is valid
// only during the call, which never waits.
//
// A packet of a connection or a listener of this node goes there. Any other to a served port
// ([Config.Served]) belongs to a flow.
func (f *Forwarder) DeliverOwn(raw []byte) {
	d := f.deliveries.Get().(*delivery)
	defer f.finish(d)
	p := &d.packet
	if !f.parse(p, raw) {
		return
	}
	if key, ok := f.own.free(p); ok && f.rules.serves(p.Protocol, key) {
		f.dispatch(d, noPeerRouters{}) // no other router has this address
		return
	}
	f.own.deliver(p)
}

// free returns the key of a packet of TCP or UDP that no connection or listener of the node has.
func (o *own) free(p *packet.Packet) (key flowKey, ok bool) {
	switch body := p.Payload(); {
	case p.Protocol == packet.ProtoTCP && len(body) >= packet.TCPHeader:
		key = segmentKey(p, body)
		return key, !o.tcp.takes(key)
	case p.Protocol == packet.ProtoUDP:
		key = flowKey{client: netip.AddrPortFrom(p.Src, p.SrcPort), dst: netip.AddrPortFrom(p.Dst, p.DstPort)}
		o.mu.RLock()
		defer o.mu.RUnlock()
		return key, o.udp[p.DstPort] == nil && o.datagrams[key] == nil
	}
	return flowKey{}, false
}

// Listen listens on a TCP port of all of this node's own addresses.
func (f *Forwarder) Listen(port uint16) (net.Listener, error) {
	return f.own.tcp.listen(port)
}

// DialTCP opens a TCP connection from one of this node's own addresses to a peer.
func (f *Forwarder) DialTCP(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	return f.own.tcp.dial(ctx, from, to)
}

// DialUDP opens a UDP socket at one of this node's own addresses that exchanges datagrams with one
// peer. It sends nothing. A datagram is lost unless a Read waits for it or it has room.
func (f *Forwarder) DialUDP(from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	return f.own.dialUDP(from, to)
}

// ListenPacket listens on a UDP port of all of this node's own addresses. It holds up to
// maxOwnDatagrams that have not been read; further ones are dropped.
//
// Each datagram is read with its sender's address, and WriteTo answers from the address that
// the sender's last datagram went to.
func (f *Forwarder) ListenPacket(port uint16) (net.PacketConn, error) {
	return f.own.listenPacket(port)
}

// deliver never waits.
func (o *own) deliver(p *packet.Packet) {
	switch p.Protocol {
	case packet.ProtoTCP:
		o.deliverTCP(p)
	case packet.ProtoUDP:
		o.deliverUDP(p)
	case packet.ProtoICMP, packet.ProtoICMPv6:
		switch {
		case !p.ICMPChecksumOK():
			o.drops.add(dropChecksum, 1)
		case p.IsEchoRequest():
			o.sender.ownEchoReply(p)
		default:
			o.deliverError(p)
		}
	default:
		o.drops.add(dropUnsupported, 1)
		o.sender.refuse(p, packet.AdminProhibited)
	}
}

func (o *own) deliverTCP(p *packet.Packet) {
	segment, err := p.Segment()
	switch {
	case errors.Is(err, packet.ErrChecksum):
		o.drops.add(dropChecksum, 1)
		return
	case err != nil:
		o.drops.add(dropMalformed, 1)
		return
	}
	o.tcp.deliver(p, segment)
}

func (o *own) deliverUDP(p *packet.Packet) {
	if !p.UDPChecksumOK() {
		o.drops.add(dropChecksum, 1)
		return
	}
	key := flowKey{client: netip.AddrPortFrom(p.Src, p.SrcPort), dst: netip.AddrPortFrom(p.Dst, p.DstPort)}
	o.mu.RLock()
	conn, connected := o.udp[p.DstPort], o.datagrams[key]
	taken := connected != nil && connected.take(p.Data) // under the lock: Close returns the memory of all datagrams
	o.mu.RUnlock()
	if connected != nil {
		if !taken {
			o.drops.add(dropSocketBuffer, 1)
		}
		return
	}
	if conn == nil {
		o.sender.refuse(p, packet.PortUnreachable)
		return
	}
	d := ownDatagram{
		from: netip.AddrPortFrom(p.Src, p.SrcPort), to: p.Dst, data: append([]byte(nil), p.Data...),
	}
	select {
	case conn.received <- d:
	default:
		o.drops.add(dropSocketBuffer, 1)
	}
}

// deliverError takes an ICMP error about a packet that this node sent.
func (o *own) deliverError(p *packet.Packet) {
	q, ok := p.ParseUnreachable()
	if !ok {
		o.drops.add(dropUnsupported, 1)
		return
	}
	key := flowKey{client: q.Dst, dst: q.Src}
	if q.Protocol == packet.ProtoTCP {
		o.tcp.unreachable(key, q)
		return
	}
	o.mu.RLock()
	c := o.datagrams[key]
	o.mu.RUnlock()
	if c != nil && q.Refused {
		c.refuse()
	}
}

// close ends all listeners and connections.
func (o *own) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for _, c := range o.datagrams {
		close(c.closed)
	}
	clear(o.datagrams)
	for _, c := range o.udp {
		close(c.closed)
	}
	clear(o.udp)
	o.tcp.close()
}

// maxOwnDatagrams bounds the datagrams that wait for the reader of a port, and maxOwnSenders the
// senders whose last destination is known.
const (
	maxOwnDatagrams = 64
	maxOwnSenders   = 1024
)

type ownDatagram struct {
	from netip.AddrPort
	to   netip.Addr
	data []byte
}

// ownPacketConn is the [net.PacketConn] of a UDP port of the node's own addresses.
type ownPacketConn struct {
	own      *own
	port     uint16
	received chan ownDatagram
	closed   chan struct{} // closed when the conn is taken out of own.udp

	mu       sync.Mutex
	deadline time.Time
	wake     chan struct{}                 // closed, and replaced, when deadline changes
	dst      map[netip.AddrPort]netip.Addr // by sender: the address that its last datagram went to
}

func (o *own) listenPacket(port uint16) (net.PacketConn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, fmt.Errorf("listening on tailnet UDP port %d: %w", port, ErrClosed)
	}
	if port == 0 || o.udp[port] != nil {
		return nil, fmt.Errorf("listening on tailnet UDP port %d: the port is 0 or in use", port)
	}
	c := &ownPacketConn{
		own: o, port: port, received: make(chan ownDatagram, maxOwnDatagrams), closed: make(chan struct{}),
		wake: make(chan struct{}), dst: map[netip.AddrPort]netip.Addr{},
	}
	o.udp[port] = c
	return c, nil
}

// ReadFrom implements [net.PacketConn].
func (c *ownPacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		deadline, changed := c.deadline, c.wake
		c.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			late = time.After(time.Until(deadline))
		}
		select {
		case d := <-c.received:
			c.noteSender(d)
			return copy(b, d.data), net.UDPAddrFromAddrPort(d.from), nil
		case <-changed:
		case <-late:
			return 0, nil, os.ErrDeadlineExceeded
		case <-c.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

// noteSender keeps the address that a datagram went to. The table is emptied when it is full: a
// sender is known again with its next datagram.
func (c *ownPacketConn) noteSender(d ownDatagram) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dst) >= maxOwnSenders {
		clear(c.dst)
	}
	c.dst[d.from] = d.to
}

// WriteTo implements [net.PacketConn]. It waits for room in the link, and fails for a peer that
// has sent no datagram to this port.
func (c *ownPacketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("sending to %v: %w", to, errors.ErrUnsupported)
	}
	dst := udp.AddrPort()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	c.mu.Lock()
	from, ok := c.dst[dst]
	c.mu.Unlock()
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	switch {
	case !ok:
		return 0, fmt.Errorf("sending to %v: it has sent nothing to this port", dst)
	case !c.own.sender.udp(netip.AddrPortFrom(from, c.port), dst, b):
		return 0, net.ErrClosed
	}
	return len(b), nil
}

// Close implements [net.PacketConn].
func (c *ownPacketConn) Close() error {
	c.own.mu.Lock()
	defer c.own.mu.Unlock()
	if c.own.udp[c.port] != c {
		return net.ErrClosed
	}
	delete(c.own.udp, c.port)
	close(c.closed)
	return nil
}

// LocalAddr implements [net.PacketConn]. Its address is unspecified.
func (c *ownPacketConn) LocalAddr() net.Addr { return &net.UDPAddr{Port: int(c.port)} }

// SetReadDeadline implements [net.PacketConn].
func (c *ownPacketConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.wake)
	c.wake = make(chan struct{})
	return nil
}

// SetDeadline implements [net.PacketConn]. Writes have no deadline.
func (c *ownPacketConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements [net.PacketConn], and does nothing.
func (c *ownPacketConn) SetWriteDeadline(time.Time) error { return nil }
