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

// Bounds limit the connections of a listener. Each connection uses one of the descriptors
// that the flow limit reserves for the rest of the process: the sum of [Bounds.MaxFiles]
// over all listeners has to fit into forward.ReservedFiles.
type Bounds struct {
	Remote     int // connections from all other hosts together
	PerAddress int // connections from one other host, or address of a node of the tailnet
	Local      int // connections from this host, reserved for it
	HostBits   int // the length of the IPv6 prefix that counts as one host
}

// The bounds of the router's listeners. A browser opens 6 connections, a Prometheus one or two.
// The container's health check comes from this host.
//
// EC2 delegates at most a /80 to a network interface; a subnet is a /64 with many hosts. A node of
// the tailnet has one address of each family, and the tailnet's listener uses no descriptors.
var (
	StatusBounds  = Bounds{Remote: 64, PerAddress: 16, Local: 8, HostBits: 80}
	DebugBounds   = Bounds{Remote: 8, PerAddress: 8, Local: 8, HostBits: 80}
	TailnetBounds = Bounds{Remote: 64, PerAddress: 16, HostBits: 128}
)

// MaxFiles returns the largest number of descriptors that a listener with these bounds uses.
func (b Bounds) MaxFiles() int { return b.Remote + b.Local + spareFiles }

// spareFiles is the number of descriptors that a guard keeps open in reserve. It closes one
// to accept a connection from this host when the process is out of descriptors.
const spareFiles = 4

// guard is a listener with [Bounds]. At a bound, it closes the connection that has been
// idle for the longest; if none is idle, it closes the new one.
//
// connState has to be the ConnState of the [http.Server] that accepts from it: that is how
// the guard learns which connections are idle or closed.
type guard struct {
	net.Listener
	bounds  Bounds
	refused prometheus.Counter

	// mu covers the fields below. local is the number of local connections, remote that of
	// all others and the sum of byHost; together they are len(conns). The guard owns spares,
	// net/http owns the connections.
	mu     sync.Mutex
	conns  map[net.Conn]*connInfo
	byHost map[netip.Addr]int
	local  int
	remote int
	spares []*os.File
}

// connInfo is the state of a connection.
type connInfo struct {
	host  netip.Addr
	local bool
	idle  bool
	since time.Time // of its last change of state
}

func newGuard(ln net.Listener, b Bounds, refused prometheus.Counter) *guard {
	g := &guard{Listener: ln, bounds: b, refused: refused, conns: map[net.Conn]*connInfo{}, byHost: map[netip.Addr]int{}}
	g.refill()
	return g
}

// Accept implements [net.Listener].
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		scarce := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
		if scarce && g.releaseSpare() {
			c, err = g.Listener.Accept()
		}
		if err != nil {
			g.refill()
			return nil, err // net/http waits and retries
		}
		if g.admit(c, scarce) {
			return c, nil
		}
		g.refused.Inc()
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // reset it: no TIME-WAIT
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

// admit counts c, and reports whether it is within the bounds. While descriptors are
// scarce, it admits only connections from this host.
func (g *guard) admit(c net.Conn, scarce bool) bool {
	host, local := hostOf(c.RemoteAddr().String(), c.LocalAddr().String(), g.bounds.HostBits)
	if scarce && !local {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	full := func() bool {
		if local {
			return g.local >= g.bounds.Local
		}
		return g.remote >= g.bounds.Remote || g.byHost[host] >= g.bounds.PerAddress
	}
	if full() {
		ofHost := !local && g.byHost[host] >= g.bounds.PerAddress
		g.evict(func(p *connInfo) bool { return p.local == local && (!ofHost || p.host == host) })
	}
	if full() {
		return false
	}
	g.conns[c] = &connInfo{host: host, local: local, idle: true, since: time.Now()}
	g.count(host, local, 1)
	return true
}

// evict closes the connection that has been idle for the longest, among those for which
// may returns true. The caller holds g.mu.
func (g *guard) evict(may func(*connInfo) bool) {
	var oldest net.Conn
	for c, p := range g.conns {
		if p.idle && may(p) && (oldest == nil || p.since.Before(g.conns[oldest].since)) {
			oldest = c
		}
	}
	if oldest == nil {
		return
	}
	g.refused.Inc()
	g.remove(oldest)
	oldest.Close()
}

func (g *guard) remove(c net.Conn) {
	if p := g.conns[c]; p != nil {
		delete(g.conns, c)
		g.count(p.host, p.local, -1)
	}
}

func (g *guard) count(host netip.Addr, local bool, n int) {
	if local {
		g.local += n
		return
	}
	g.remote += n
	if g.byHost[host] += n; g.byHost[host] == 0 {
		delete(g.byHost, host)
	}
}

// connState is for [http.Server.ConnState].
func (g *guard) connState(c net.Conn, s http.ConnState) {
	g.mu.Lock()
	switch p := g.conns[c]; {
	case s == http.StateClosed || s == http.StateHijacked:
		g.remove(c)
	case p != nil:
		p.idle = s != http.StateActive
		p.since = time.Now()
	}
	g.mu.Unlock()
	if s == http.StateClosed {
		g.refill()
	}
}

// releaseSpare closes a spare descriptor, and reports whether there was one.
func (g *guard) releaseSpare() bool {
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

// refill opens spare descriptors up to spareFiles, unless the process is out of them.
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

// hostOf returns the host that a connection counts for, and whether it is this host: over
// loopback, or from the address that it connected to. The kernel drops packets from other
// hosts with such a source.
func hostOf(remoteAddr, localAddr string, hostBits int) (host netip.Addr, local bool) {
	from, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return host, false
	}
	to, _ := netip.ParseAddrPort(localAddr)
	host = plain(from.Addr())
	local = host.IsLoopback() || host == plain(to.Addr())
	if host.Is6() {
		if p, err := host.Prefix(hostBits); err == nil {
			host = p.Addr()
		}
	}
	return host, local
}
