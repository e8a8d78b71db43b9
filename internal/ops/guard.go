package ops

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds say how many connections a listener has at most. Each holds one of the
// descriptors that the flow limit leaves to the rest of the process: their sum has to
// fit into forward.ReservedFiles.
type Bounds struct {
	Remote     int // of all other hosts
	PerAddress int // of one of them; an IPv6 host has a /80
	Local      int // of this host, in places that no other may take
}

// The bounds of the router's two listeners. A browser opens 6 connections, a
// Prometheus one or two. The container's health check comes from this host.
var (
	StatusBounds = Bounds{Remote: 64, PerAddress: 16, Local: 8}
	DebugBounds  = Bounds{Remote: 8, PerAddress: 8, Local: 8}
)

// Most is the number of connections, the descriptors in reserve included.
func (b Bounds) Most() int { return b.Remote + b.Local + spareFiles }

// spareFiles is how many descriptors a guard holds in reserve, so that a connection of
// this host is accepted although the process may open no more files.
const spareFiles = 4

// guard is a listener with [Bounds]. Where all places are taken, the connection that has
// been idle for the longest gives way; if none is idle, the new one is closed.
//
// It needs to see the connections' states: connState has to be the ConnState of the
// [http.Server] that accepts from it.
type guard struct {
	net.Listener
	bounds  Bounds
	refused prometheus.Counter

	mu     sync.Mutex
	places map[net.Conn]*place
	taken  map[netip.Addr]int // by host
	local  int
	remote int
	spares []*os.File
}

// place is one connection's.
type place struct {
	host  netip.Addr
	local bool
	idle  bool
	since time.Time // it is idle
}

func newGuard(ln net.Listener, b Bounds, refused prometheus.Counter) *guard {
	g := &guard{Listener: ln, bounds: b, refused: refused, places: map[net.Conn]*place{}, taken: map[netip.Addr]int{}}
	g.refill()
	return g
}

// Accept implements [net.Listener].
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		scarce := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
		if scarce && g.spend() {
			c, err = g.Listener.Accept()
		}
		if err != nil {
			g.refill()
			return nil, err // net/http waits, and tries again
		}
		if g.admit(c, scarce) {
			return c, nil
		}
		g.refused.Inc()
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset leaves nothing behind
		}
		c.Close()
		g.refill()
	}
}

// Close implements [net.Listener].
func (g *guard) Close() error {
	err := g.Listener.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.spares {
		f.Close()
	}
	g.spares = nil
	return err
}

// admit finds a place for c. While descriptors are scarce, only this host gets one.
func (g *guard) admit(c net.Conn, scarce bool) bool {
	host, local := hostOf(c.RemoteAddr().String(), c.LocalAddr().String())
	if scarce && !local {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	full := func() bool {
		if local {
			return g.local >= g.bounds.Local
		}
		return g.remote >= g.bounds.Remote || g.taken[host] >= g.bounds.PerAddress
	}
	if full() {
		ofHost := !local && g.taken[host] >= g.bounds.PerAddress
		g.evict(func(p *place) bool { return p.local == local && (!ofHost || p.host == host) })
	}
	if full() {
		return false
	}
	g.places[c] = &place{host: host, local: local, idle: true, since: time.Now()}
	g.count(host, local, 1)
	return true
}

// evict closes the connection of those that may go which has been idle for the longest.
func (g *guard) evict(may func(*place) bool) {
	var oldest net.Conn
	for c, p := range g.places {
		if p.idle && may(p) && (oldest == nil || p.since.Before(g.places[oldest].since)) {
			oldest = c
		}
	}
	if oldest == nil {
		return
	}
	g.refused.Inc()
	g.leave(oldest)
	oldest.Close()
}

func (g *guard) leave(c net.Conn) {
	if p := g.places[c]; p != nil {
		delete(g.places, c)
		g.count(p.host, p.local, -1)
	}
}

func (g *guard) count(host netip.Addr, local bool, n int) {
	if local {
		g.local += n
		return
	}
	g.remote += n
	if g.taken[host] += n; g.taken[host] == 0 {
		delete(g.taken, host)
	}
}

// connState is for [http.Server.ConnState].
func (g *guard) connState(c net.Conn, s http.ConnState) {
	g.mu.Lock()
	switch p := g.places[c]; {
	case s == http.StateClosed || s == http.StateHijacked:
		g.leave(c)
	case p != nil:
		p.idle = s != http.StateActive
		p.since = time.Now()
	}
	g.mu.Unlock()
	if s == http.StateClosed {
		g.refill()
	}
}

// spend gives one of the spare descriptors up, if there is one.
func (g *guard) spend() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.spares)
	if n == 0 {
		return false
	}
	g.spares[n-1].Close()
	g.spares = g.spares[:n-1]
	return true
}

// refill takes spare descriptors back as far as there are any.
func (g *guard) refill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.spares) < spareFiles {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		g.spares = append(g.spares, f)
	}
}

// hostBits is the length of an IPv6 prefix that is one host's: EC2 delegates a /80 to a
// network interface at most, and a subnet, which has a /64, holds many hosts.
const hostBits = 80

// hostOf returns for whom a connection is counted, and whether it is of this host: over
// loopback, or from the address that it came to, which the kernel takes from no other.
func hostOf(remoteAddr, localAddr string) (host netip.Addr, local bool) {
	from, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return host, false
	}
	to, _ := netip.ParseAddrPort(localAddr)
	host = from.Addr().Unmap().WithZone("")
	local = host.IsLoopback() || host == to.Addr().Unmap().WithZone("")
	if host.Is6() {
		if p, err := host.Prefix(hostBits); err == nil {
			host = p.Addr()
		}
	}
	return host, local
}
