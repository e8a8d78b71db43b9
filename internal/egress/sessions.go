package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/duplex"
)

const (
	// MaxSessions bounds the UDP sessions.
	MaxSessions = 256
	// maxSessionsPerAddress bounds those of the programs at one address.
	maxSessionsPerAddress = MaxSessions / 2
	// maxPending and maxPendingBytes bound the datagrams that wait, mostly for their session to be opened. One of any
	// size may wait.
	maxPending      = 16
	maxPendingBytes = 32 << 10
	// sessionIdle ends a session without a datagram in either direction (RFC 4787, section 4.3).
	sessionIdle = 2 * time.Minute
	maxDatagram = 1 << 16
)

// sessionKey is the client and the target of a UDP session. A client may use several sockets of the router.
type sessionKey struct {
	socket *net.UDPConn
	client netip.AddrPort
	target string
}

// sessions are the UDP sessions: each exchanges the datagrams of one client with one target.
type sessions struct {
	server *Server

	mu       sync.Mutex // covers the fields below
	open     map[sessionKey]*pending
	byAddr   map[netip.Addr]int
	draining bool
}

// pending are the datagrams of a session that wait to be sent.
type pending struct {
	memory duplex.Memory
	queue  chan []byte
	bytes  atomic.Int64
}

func newPending(m duplex.Memory) *pending {
	return &pending{memory: m, queue: make(chan []byte, maxPending)}
}

// add queues a datagram, unless there is no room.
func (p *pending) add(data []byte) {
	n := int64(len(data))
	if !p.memory.Reserve(n) {
		return
	}
	if p.bytes.Add(n) <= max(n, maxPendingBytes) {
		select {
		case p.queue <- data:
			return
		default:
		}
	}
	p.taken(n)
}

// taken returns the memory of a datagram of n bytes that no longer waits.
func (p *pending) taken(n int64) {
	p.bytes.Add(-n)
	p.memory.Release(n)
}

// clear drops all datagrams. None may be added any more.
func (p *pending) clear() {
	for {
		select {
		case data := <-p.queue:
			p.taken(int64(len(data)))
		default:
			return
		}
	}
}

func newSessions(s *Server) *sessions {
	return &sessions{server: s, open: map[sessionKey]*pending{}, byAddr: map[netip.Addr]int{}}
}

// deliver sends a datagram, which it copies, to its target. It never waits: a datagram without room is dropped.
// answer gets the target's datagrams until the session ends, with ctx or after sessionIdle.
func (t *sessions) deliver(ctx context.Context, key sessionKey, via string, data []byte, answer func([]byte, net.Addr)) {
	data = append([]byte(nil), data...)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[key]
	if p == nil {
		addr := key.client.Addr()
		if t.draining || len(t.open) >= MaxSessions || t.byAddr[addr] >= maxSessionsPerAddress {
			t.server.metrics.failed("udp", limited)
			return
		}
		p = newPending(t.server.cfg.Memory)
		t.open[key] = p
		t.byAddr[addr]++
		t.server.run(func() {
			defer t.remove(key)
			t.serve(ctx, key, via, p, answer)
		})
	}
	p.add(data)
}

func (t *sessions) remove(key sessionKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[key].clear()
	delete(t.open, key)
	addr := key.client.Addr()
	if t.byAddr[addr]--; t.byAddr[addr] == 0 {
		delete(t.byAddr, addr)
	}
}

// drain refuses new sessions.
func (t *sessions) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
}

// serve opens the session's flow and sends the queue to it.
func (t *sessions) serve(ctx context.Context, key sessionKey, via string, p *pending, answer func([]byte, net.Addr)) {
	f, err := t.server.dial(ctx, origin{key.client, via}, "udp", key.target)
	if err != nil {
		return
	}
	defer f.Close()
	used := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, maxDatagram)
		for {
			n, err := f.Read(buf)
			if isClosed(err) {
				return
			}
			if err != nil {
				continue // an ICMP error: the target may listen later
			}
			answer(buf[:n], f.RemoteAddr())
			select {
			case used <- struct{}{}:
			default:
			}
		}
	}()
	defer func() {
		f.Close()
		<-ended
	}()
	idle := time.NewTimer(sessionIdle)
	defer idle.Stop()
	for {
		select {
		case data := <-p.queue:
			_, err := f.Write(data)
			p.taken(int64(len(data)))
			if isClosed(err) {
				return
			}
		case <-used:
		case <-idle.C:
			return
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-t.server.ctx.Done():
			return
		}
		idle.Reset(sessionIdle)
	}
}

// isClosed reports whether an error of a UDP socket is its end.
func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
