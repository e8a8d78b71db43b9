package forward

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/tcp"
)

// The bounds of the connections of the node's own addresses, and of those of the responder. Together with maxOwnBuffer they bound
// the memory that one peer, and all peers, can take.
const (
	maxOwnConns        = 256
	maxOwnConnsPerPeer = 32
	// maxOwnConnsPerPort bounds those of one port of the node's own addresses, unfinished handshakes
	// included: the two ports of the peer API, which take SYNs of all nodes, leave some to the others.
	maxOwnConnsPerPort = 96
	maxOwnBacklog      = 32 // of a listener: connections that were not accepted
	maxOwnBuffer       = 512 << 10
	// maxOwnDialed bounds the connections of DialTCP. Their buffers, with the bytes of Reserve, are as large as those of the
	// flows of one node.
	maxOwnDialed = 4096
)

// Times of these connections.
const (
	ownKeepAlive = time.Minute // silence after which the peer is probed
	ownGiveUp    = time.Minute // without an answer to data that is due
	ownLinger    = time.Minute // after Close, for the peer to close too
)

// firstEphemeral is the first port that connections are opened from, as IANA has it.
const firstEphemeral = 49152

// ownTCP is the TCP of the node's own addresses: listeners, and connections that are a [net.Conn]
// in this process. Each connection's lock may be held when mu is taken, not the reverse.
type ownTCP struct {
	*core
	congestion Congestion
	maxPerPort int // accepted connections of a port

	mu        sync.Mutex // covers the fields below
	listeners map[uint16]*ownListener
	conns     map[flowKey]*ownConn // client is the peer, dst the node itself
	byPeer    map[netip.Addr]int   // the number of accepted conns
	byPort    map[uint16]int       // the same
	dialed    int                  // the number of conns that were dialed
	closed    bool
}

func newOwnTCP(c *core, control Congestion, maxPerPort int) *ownTCP {
	return &ownTCP{
		core: c, congestion: control, maxPerPort: maxPerPort, listeners: map[uint16]*ownListener{},
		conns: map[flowKey]*ownConn{}, byPeer: map[netip.Addr]int{}, byPort: map[uint16]int{},
	}
}

// deliver takes a segment with valid checksums for one of the node's own addresses. It never waits.
func (t *ownTCP) deliver(p *packet.Packet, segment []byte) {
	s, err := tcp.Parse(segment)
	if err != nil {
		t.drops.add(dropMalformed, 1)
		return
	}
	key := segmentKey(p, segment)
	t.mu.Lock()
	c := t.conns[key]
	t.mu.Unlock()
	switch {
	case c != nil:
		c.deliver(&s)
	case !packet.OpensConnection(segment) || !t.accept(key, &s):
		t.sender.reset(p, segment)
	}
}

// has reports whether there is a connection with a key.
func (t *ownTCP) has(key flowKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conns[key] != nil
}

// takes reports whether there is a connection with a key, or a listener on its port.
func (t *ownTCP) takes(key flowKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conns[key] != nil || t.listeners[key.dst.Port()] != nil
}

// accept creates the connection of a SYN. It returns false if nothing listens, or at a bound.
func (t *ownTCP) accept(key flowKey, syn *tcp.Segment) bool {
	t.mu.Lock()
	ln := t.listeners[key.dst.Port()]
	if ln == nil || len(ln.backlog) == cap(ln.backlog) {
		t.mu.Unlock()
		return false
	}
	c, err := t.addLocked(key, false)
	t.mu.Unlock()
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := streamNow()
	c.listener = ln
	c.conn = tcp.Accept(now, t.options(c), syn)
	c.conn.Answer(now)
	c.settle(now)
	return true
}

// addLocked adds a connection without a state machine to the table, with its lock free: the caller
// sets conn, and settles. It holds t.mu.
func (t *ownTCP) addLocked(key flowKey, dialed bool) (*ownConn, error) {
	peer, port := key.client.Addr(), key.dst.Port()
	switch {
	case t.closed:
		return nil, ErrClosed
	case dialed && t.dialed >= maxOwnDialed,
		!dialed && (len(t.conns)-t.dialed >= maxOwnConns || t.byPeer[peer] >= maxOwnConnsPerPeer || t.byPort[port] >= t.maxPerPort):
		return nil, ErrTooMany
	case t.conns[key] != nil:
		return nil, syscall.EADDRINUSE
	}
	c := newOwnConn(t, key)
	c.dialed = dialed
	t.conns[key] = c
	if dialed {
		t.dialed++
	} else {
		t.byPeer[peer]++
		t.byPort[port]++
	}
	return c, nil
}

// remove takes a connection that is over out of the table.
func (t *ownTCP) remove(c *ownConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns[c.key] != c {
		return
	}
	delete(t.conns, c.key)
	if c.dialed {
		t.dialed--
		return
	}
	peer, port := c.key.client.Addr(), c.key.dst.Port()
	if t.byPeer[peer]--; t.byPeer[peer] == 0 {
		delete(t.byPeer, peer)
	}
	if t.byPort[port]--; t.byPort[port] == 0 {
		delete(t.byPort, port)
	}
}

// options returns the options of a new connection.
func (t *ownTCP) options(c *ownConn) tcp.Options {
	var random [16]byte
	rand.Read(random[:])
	limit := c.limit()
	return tcp.Options{
		MSS:             t.sender.mtu - packet.HeaderSize(c.key.dst.Addr()) - packet.TCPHeader,
		ISS:             binary.BigEndian.Uint32(random[:]),
		TimestampOffset: binary.BigEndian.Uint32(random[4:]),
		Congestion:      t.congestion.maker(binary.BigEndian.Uint64(random[8:])),
		Keepalive:       tcp.Keepalive{Idle: ownKeepAlive, Interval: keepAliveInterval, Count: keepAliveCount},
		Handshake:       t.dialTimeout,
		GiveUp:          ownGiveUp,
		SendLimit:       limit, ReceiveLimit: limit,
	}
}

// limit returns the size in bytes that the connection's buffers may have now, in each direction. Peers choose the number
// of accepted connections.
func (c *ownConn) limit() int {
	if c.dialed {
		return int(c.table.memory.shareOf(c.table.memory.dialed.Load()))
	}
	return int(min(c.table.memory.share(), maxOwnBuffer))
}

// listen listens on a port of all own addresses.
func (t *ownTCP) listen(port uint16) (net.Listener, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return nil, fmt.Errorf("listening on tailnet port %d: %w", port, ErrClosed)
	case port == 0 || t.listeners[port] != nil:
		return nil, fmt.Errorf("listening on tailnet port %d: the port is 0 or in use", port)
	}
	ln := &ownListener{table: t, port: port, backlog: make(chan *ownConn, maxOwnBacklog), done: make(chan struct{})}
	t.listeners[port] = ln
	return ln, nil
}

// dial opens a connection from one of the own addresses to a peer.
func (t *ownTCP) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	c, err := t.begin(from, to)
	if err == nil {
		err = c.awaitEstablished(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to %v: %w", to, err)
	}
	return c, nil
}

// begin adds a connection from a free port, and sends its SYN.
func (t *ownTCP) begin(from netip.Addr, to netip.AddrPort) (*ownConn, error) {
	c, err := t.reserve(from, to)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := streamNow()
	c.conn = tcp.Dial(now, t.options(c))
	c.settle(now)
	return c, nil
}

// reserve adds a connection from a free port, as addLocked does.
func (t *ownTCP) reserve(from netip.Addr, to netip.AddrPort) (*ownConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, ok := freePort(from, to, func(k flowKey) bool { return t.conns[k] == nil })
	if !ok {
		return nil, syscall.EADDRINUSE
	}
	return t.addLocked(key, true)
}

// freePort returns the key of a connection from a random port that is free (RFC 6056, section 3.3.1): who cannot
// see its packets cannot forge any.
func freePort(from netip.Addr, to netip.AddrPort, free func(flowKey) bool) (key flowKey, ok bool) {
	var random [2]byte
	rand.Read(random[:])
	const ports = 1<<16 - firstEphemeral
	first := int(binary.BigEndian.Uint16(random[:])) % ports
	for i := range ports {
		key = flowKey{client: to, dst: netip.AddrPortFrom(from, uint16(firstEphemeral+(first+i)%ports))}
		if free(key) {
			return key, true
		}
	}
	return flowKey{}, false
}

// unreachable takes an ICMP error about a segment of a connection.
func (t *ownTCP) unreachable(key flowKey, q packet.Quote) {
	t.mu.Lock()
	c := t.conns[key]
	t.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return
	}
	c.conn.Unreachable(q.Seq)
	c.settle(streamNow())
}

// close ends all listeners and connections.
func (t *ownTCP) close() {
	t.mu.Lock()
	t.closed = true
	var listeners []*ownListener
	for _, ln := range t.listeners {
		listeners = append(listeners, ln)
	}
	var conns []*ownConn
	for _, c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, ln := range listeners {
		ln.Close()
	}
	for _, c := range conns {
		c.abort()
	}
}

// ownListener is the [net.Listener] of a TCP port of the node's own addresses.
type ownListener struct {
	table   *ownTCP
	port    uint16
	backlog chan *ownConn // connected, and not accepted yet
	done    chan struct{} // closed when the listener is taken out of the table
}

// Accept implements [net.Listener].
func (l *ownListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. It resets the connections that were not accepted.
func (l *ownListener) Close() error {
	l.table.mu.Lock()
	if l.table.listeners[l.port] != l {
		l.table.mu.Unlock()
		return net.ErrClosed
	}
	delete(l.table.listeners, l.port)
	close(l.done)
	l.table.mu.Unlock()
	for {
		select {
		case c := <-l.backlog:
			c.abort()
		default:
			return nil
		}
	}
}

// Addr implements [net.Listener]. Its address is unspecified.
func (l *ownListener) Addr() net.Addr { return &net.TCPAddr{Port: int(l.port)} }

// offer gives a connection to the next Accept. It returns false if the listener has closed, or has
// too many.
func (l *ownListener) offer(c *ownConn) bool {
	l.table.mu.Lock() // so that Close finds every connection in backlog
	defer l.table.mu.Unlock()
	if l.table.listeners[l.port] != l {
		return false
	}
	select {
	case l.backlog <- c:
		return true
	default:
		return false
	}
}
