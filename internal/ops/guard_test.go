package ops

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// hosts is a listener whose connections come from addresses that the test chooses.
type hosts struct {
	conns chan net.Conn // nil: Accept fails
	done  chan struct{}
	once  sync.Once
}

type conn struct {
	net.Conn
	from, to netip.AddrPort
	closed   chan struct{}
	once     sync.Once
}

func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }
func (c *conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.to) }
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (h *hosts) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		if c == nil {
			return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}
func (h *hosts) Close() error   { h.once.Do(func() { close(h.done) }); return nil }
func (h *hosts) Addr() net.Addr { return &net.TCPAddr{} }

const listening = "10.0.1.5:9002"

// dial connects from a host and returns both ends.
func (h *hosts) dial(t *testing.T, from string) (client net.Conn, server *conn) {
	t.Helper()
	a, b := net.Pipe()
	server = &conn{Conn: b, from: netip.AddrPortFrom(netip.MustParseAddr(from), 40000), to: netip.MustParseAddrPort(listening), closed: make(chan struct{})}
	h.conns <- server
	t.Cleanup(func() { a.Close() })
	return a, server
}

// ask sends a request and returns the code of the status line, "" if the connection is closed.
func ask(c net.Conn) string {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return ""
	}
	io.Copy(io.Discard, resp.Body)
	return resp.Status[:3]
}

func serveHosts(t *testing.T, b Bounds, handler http.Handler) (*hosts, *guard) {
	t.Helper()
	h := &hosts{conns: make(chan net.Conn), done: make(chan struct{})}
	server, g := guarded(h, b, refusals(nil, "status"), handler, writeTimeout, slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(g) }()
	t.Cleanup(func() { server.Close(); <-served })
	return h, g
}

var ok = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })

// TestIdleConnectionsGiveWay: a new connection from another host replaces an idle one, and
// one from this host is always accepted.
func TestIdleConnectionsGiveWay(t *testing.T) {
	h, g := serveHosts(t, Bounds{Remote: 8, PerAddress: 4, Local: 2, HostBits: 80}, ok)
	var hoard []*conn
	for range 100 {
		_, c := h.dial(t, "10.0.9.9")
		hoard = append(hoard, c)
	}
	check := func(who, from string) {
		t.Helper()
		c, _ := h.dial(t, from)
		if code := ask(c); code != "200" {
			t.Errorf("%s is answered %q", who, code)
		}
	}
	check("another host", "10.0.9.10")
	for i := range 20 {
		h.dial(t, fmt.Sprintf("10.0.8.%d", i+1))
	}
	check("another host, with all places taken", "10.0.9.11")
	check("the health check", "127.0.0.1")
	check("the health check at the task's address", "10.0.1.5")
	open := 0
	for _, c := range hoard {
		select {
		case <-c.closed:
		default:
			open++
		}
	}
	if open > 4 {
		t.Errorf("one host holds %d connections", open)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.remote > 8 || g.local > 2 {
		t.Errorf("%d and %d connections are open", g.remote, g.local)
	}
	if n := testutil.ToFloat64(g.refused); n < 100 {
		t.Errorf("%v connections are counted as refused", n)
	}
}

// TestIPv6HostsOfOneSubnet: the hosts of a subnet, a /64, count separately, and all
// addresses of a host's /80 together.
func TestIPv6HostsOfOneSubnet(t *testing.T) {
	block, reached := make(chan struct{}), make(chan struct{}, 10)
	h, _ := serveHosts(t, Bounds{Remote: 8, PerAddress: 2, Local: 1, HostBits: StatusBounds.HostBits}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		<-block
		io.WriteString(w, "ok")
	}))
	codes := make(chan string, 4)
	for _, from := range []string{"2600:1f18:1:2:a::1", "2600:1f18:1:2:a::2", "2600:1f18:1:2:b::1", "2600:1f18:1:2:b::2"} {
		c, server := h.dial(t, from)
		go func() { codes <- ask(c) }()
		select {
		case <-reached:
		case <-server.closed:
			t.Errorf("%s is refused", from)
		}
	}
	c, server := h.dial(t, "2600:1f18:1:2:a::3")
	<-server.closed
	c.Close()
	close(block)
	for range 4 {
		if code := <-codes; code != "200" {
			t.Errorf("a host is answered %q", code)
		}
	}
}

// TestNodesOfTheTailnet: the nodes, whose addresses are in one /96, count separately.
func TestNodesOfTheTailnet(t *testing.T) {
	block, reached := make(chan struct{}), make(chan struct{}, 10)
	b := TailnetBounds
	b.PerAddress = 1
	h, _ := serveHosts(t, b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		reached <- struct{}{}
		<-block
	}))
	defer close(block)
	for i := range 4 {
		c, server := h.dial(t, fmt.Sprintf("fd7a:115c:a1e0::%d", i+1))
		go ask(c)
		select {
		case <-reached:
		case <-server.closed:
			t.Errorf("node %d is refused", i+1)
		}
	}
	_, server := h.dial(t, "fd7a:115c:a1e0::1")
	<-server.closed
}

// TestStrangers: peers that may not read the status have few connections together, and leave room for
// those who may.
func TestStrangers(t *testing.T) {
	h := &hosts{conns: make(chan net.Conn, 100), done: make(chan struct{})}
	may := netip.MustParseAddr("100.64.0.9")
	ln := &strangersListener{Listener: h, allowed: func(a netip.Addr) bool { return a == may }}
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	var first net.Conn
	for i := range maxStrangers {
		h.dial(t, fmt.Sprintf("100.64.0.%d", 10+i))
		if c := <-accepted; first == nil {
			first = c
		}
	}
	_, refused := h.dial(t, "100.64.0.50")
	<-refused.closed
	h.dial(t, may.String())
	if c := <-accepted; c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() != may {
		t.Errorf("%v was accepted, want %v", c.RemoteAddr(), may)
	}
	first.Close()
	first.Close() // counts once
	h.dial(t, "100.64.0.51")
	<-accepted
	_, refused = h.dial(t, "100.64.0.52")
	<-refused.closed
	h.Close()
	if _, ok := <-accepted; ok {
		t.Error("a connection too many was accepted")
	}
}

// TestActiveConnectionsStay: a new connection never interrupts a request.
func TestActiveConnectionsStay(t *testing.T) {
	block, reached := make(chan struct{}), make(chan struct{}, 10)
	h, _ := serveHosts(t, Bounds{Remote: 2, PerAddress: 2, Local: 1, HostBits: 80}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		<-block
		io.WriteString(w, "ok")
	}))
	codes := make(chan string, 2)
	for range 2 {
		c, _ := h.dial(t, "10.0.9.9")
		go func() { codes <- ask(c) }()
		<-reached
	}
	refused, server := h.dial(t, "10.0.9.10")
	<-server.closed
	if code := ask(refused); code != "" {
		t.Errorf("a connection above the bound is answered %s", code)
	}
	close(block)
	for range 2 {
		if code := <-codes; code != "200" {
			t.Errorf("a request in progress is answered %q", code)
		}
	}
}

// TestScarceDescriptors: while the process is out of descriptors, only requests from this
// host are answered.
func TestScarceDescriptors(t *testing.T) {
	for _, tc := range []struct{ from, code string }{{"127.0.0.1", "200"}, {"10.0.1.5", "200"}, {"10.0.9.9", ""}} {
		h, g := serveHosts(t, Bounds{Remote: 2, PerAddress: 2, Local: 1, HostBits: 80}, ok)
		h.conns <- nil
		c, _ := h.dial(t, tc.from)
		if code := ask(c); code != tc.code {
			t.Errorf("%s is answered %q, want %q", tc.from, code, tc.code)
		}
		c.Close()
		g.mu.Lock()
		if len(g.spares) < spareFiles-1 {
			t.Errorf("%d descriptors in reserve", len(g.spares))
		}
		g.mu.Unlock()
	}
}

// TestSharedAnswers: requests from other hosts cost one rendering at a time, and a tenth
// of the time.
func TestSharedAnswers(t *testing.T) {
	var made atomic.Int32
	s := shared[int]{make: func() int {
		time.Sleep(20 * time.Millisecond)
		return int(made.Add(1))
	}}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { s.get(false) })
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("50 concurrent requests cost %d renderings", n)
	}
	if got := s.get(true); got != 2 {
		t.Errorf("a fresh one is number %d, want 2", got)
	}
}

// TestRequestBodies: no request may have a body.
func TestRequestBodies(t *testing.T) {
	s, err := Listen(Config{
		Listen: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Live: func() error { return nil },
		NotReady: func() []Reason { return nil }, Status: func() Status { return Status{} }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	defer func() { cancel(); <-served }()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !resp.Close && !strings.EqualFold(resp.Header.Get("Connection"), "close") {
		t.Errorf("the connection stays open for a body of 1 GB: %v", resp.Header)
	}
}
