package egress

import (
	"net"
	"net/netip"
	"sync"
)

// admission bounds the open connections of programs, and knows them.
type admission struct {
	limit, perAddress int

	mu      sync.Mutex // covers the fields below
	clients map[*client]struct{}
	byAddr  map[netip.Addr]int
	closed  bool
}

func newAdmission(limit int) *admission {
	return &admission{limit: limit, perAddress: max(1, limit/2), clients: map[*client]struct{}{}, byAddr: map[netip.Addr]int{}}
}

// client is an admitted connection of a program. Close ends its admission.
type client struct {
	*net.TCPConn
	addr netip.AddrPort
	in   *admission
	once sync.Once
	seen []byte // bytes that were read ahead
}

// admit returns the connection as a client, unless a limit is reached.
func (a *admission) admit(conn *net.TCPConn) (*client, bool) {
	c := &client{TCPConn: conn, in: a, addr: addrPort(conn.RemoteAddr())}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || len(a.clients) >= a.limit || a.byAddr[c.addr.Addr()] >= a.perAddress {
		return nil, false
	}
	a.clients[c] = struct{}{}
	a.byAddr[c.addr.Addr()]++
	return c, true
}

// open returns the number of open connections.
func (a *admission) open() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.clients)
}

// cut resets all connections, and admits no more.
func (a *admission) cut() {
	a.mu.Lock()
	a.closed = true
	var list []*client
	for c := range a.clients {
		list = append(list, c)
	}
	a.mu.Unlock()
	for _, c := range list {
		c.Reset()
	}
}

// Close implements [net.Conn].
func (c *client) Close() error {
	c.once.Do(func() {
		c.in.mu.Lock()
		defer c.in.mu.Unlock()
		delete(c.in.clients, c)
		a := c.addr.Addr()
		if c.in.byAddr[a]--; c.in.byAddr[a] == 0 {
			delete(c.in.byAddr, a)
		}
	})
	return c.TCPConn.Close()
}

// Reset implements [duplex.Conn].
func (c *client) Reset() {
	c.SetLinger(0)
	c.Close()
}

// Read implements [net.Conn].
func (c *client) Read(b []byte) (int, error) {
	if len(c.seen) > 0 {
		n := copy(b, c.seen)
		c.seen = c.seen[n:]
		return n, nil
	}
	return c.TCPConn.Read(b)
}

// addrPort returns the address of a TCP or UDP connection's end, not mapped to IPv6.
func addrPort(a net.Addr) netip.AddrPort {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		at = a.AddrPort()
	case *net.UDPAddr:
		at = a.AddrPort()
	}
	return unmapped(at)
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
