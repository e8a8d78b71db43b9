package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxOwnDatagramConns bounds the sockets of DialUDP. The engine's packet filter remembers the last 512
// destinations that this node sent datagrams to, and drops answers from others.
const maxOwnDatagramConns = 256

// maxOwnDatagramBytes bounds the datagrams that wait for the reader of such a socket, besides maxOwnDatagrams, in bytes.
// One of any size may wait.
const maxOwnDatagramBytes = 96 << 10

// ownDatagrams is a UDP socket at one of the node's own addresses, connected to a peer, as a [net.Conn].
type ownDatagrams struct {
	own      *own
	key      flowKey // client is the peer, dst the node itself
	received chan []byte
	waiting  atomic.Int64  // bytes in received
	refused  chan struct{} // has a token after an ICMP error
	closed   chan struct{} // closed when the conn is taken out of own.datagrams

	mu       sync.Mutex // covers the fields below
	deadline time.Time
	wake     chan struct{} // closed, and replaced, when deadline changes
}

var _ net.Conn = (*ownDatagrams)(nil)

// dialUDP adds a socket at a free port.
func (o *own) dialUDP(from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return nil, fmt.Errorf("opening a UDP socket for %v: %w", to, ErrClosed)
	case len(o.datagrams) >= maxOwnDatagramConns:
		return nil, fmt.Errorf("opening a UDP socket for %v: %w", to, ErrTooMany)
	}
	key, ok := freePort(from, to, func(k flowKey) bool { return o.udp[k.dst.Port()] == nil && o.datagrams[k] == nil })
	if !ok {
		return nil, fmt.Errorf("opening a UDP socket for %v: %w", to, syscall.EADDRINUSE)
	}
	c := &ownDatagrams{
		own: o, key: key, received: make(chan []byte, maxOwnDatagrams), refused: make(chan struct{}, 1),
		closed: make(chan struct{}), wake: make(chan struct{}),
	}
	o.datagrams[key] = c
	return c, nil
}

// take queues a datagram of the peer, which it copies. It reports false if there is no room. It needs own.mu.
func (c *ownDatagrams) take(data []byte) bool {
	n := int64(len(data))
	if !c.own.tcp.memory.reserve(n) {
		return false
	}
	if c.waiting.Add(n) <= max(n, maxOwnDatagramBytes) {
		select {
		case c.received <- append([]byte(nil), data...):
			return true
		default:
		}
	}
	c.taken(n)
	return false
}

// taken returns the memory of a datagram of n bytes that no longer waits.
func (c *ownDatagrams) taken(n int64) {
	c.waiting.Add(-n)
	c.own.tcp.memory.release(n)
}

// refuse makes one Read fail: the peer has reported that nothing listens on its port.
func (c *ownDatagrams) refuse() {
	select {
	case c.refused <- struct{}{}:
	default:
	}
}

// Read implements [net.Conn]. Each call returns one datagram, and drops the part that b has no room for.
func (c *ownDatagrams) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		deadline, changed := c.deadline, c.wake
		c.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-c.closed: // not a datagram that is still queued
			return 0, net.ErrClosed
		default:
		}
		select {
		case d := <-c.received:
			c.taken(int64(len(d)))
			return copy(b, d), nil
		case <-c.refused:
			return 0, syscall.ECONNREFUSED
		case <-changed:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
}

// Write implements [net.Conn]. It sends one datagram, and waits for room in the link.
func (c *ownDatagrams) Write(b []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	if !c.own.sender.udp(c.key.dst, c.key.client, b) {
		return 0, net.ErrClosed
	}
	return len(b), nil
}

// Close implements [net.Conn].
func (c *ownDatagrams) Close() error {
	c.own.mu.Lock()
	defer c.own.mu.Unlock()
	if c.own.datagrams[c.key] != c {
		return net.ErrClosed
	}
	delete(c.own.datagrams, c.key)
	close(c.closed)
	for {
		select {
		case d := <-c.received:
			c.taken(int64(len(d)))
		default:
			return nil
		}
	}
}

// LocalAddr implements [net.Conn].
func (c *ownDatagrams) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.key.dst) }

// RemoteAddr implements [net.Conn].
func (c *ownDatagrams) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.key.client) }

// SetReadDeadline implements [net.Conn].
func (c *ownDatagrams) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.wake)
	c.wake = make(chan struct{})
	return nil
}

// SetDeadline implements [net.Conn]. Writes have no deadline.
func (c *ownDatagrams) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn], and does nothing.
func (c *ownDatagrams) SetWriteDeadline(time.Time) error { return nil }

// ErrTooMany is the error at a bound on the node's own sockets.
var ErrTooMany = errors.New("too many connections")
