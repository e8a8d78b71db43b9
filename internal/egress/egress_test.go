package egress

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/duplex"
	"subnetrouter/internal/duplextest"
	"subnetrouter/internal/testwait"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/proxy"
)

// world is a server whose tailnet is the loopback interface: each name in it is a port there.
type world struct {
	*Server
	t    *testing.T
	addr string // of both proxies
	reg  *prometheus.Registry

	mu       sync.Mutex
	names    map[string]string // host:port in the tailnet → host:port
	finished []Flow
	opened   []net.Addr
}

func newWorld(t *testing.T, names map[string]string, edit func(*Config)) *world {
	t.Helper()
	w := &world{t: t, names: names, reg: prometheus.NewRegistry(), addr: freeAddress(t)}
	cfg := Config{
		SOCKS5: w.addr, HTTP: w.addr, Dial: w.dial, Connections: 8, Registerer: w.reg, Logger: slog.New(slog.DiscardHandler),
		Opened: func(a net.Addr) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened = append(w.opened, a)
		},
		Finished: func(f Flow) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.finished = append(w.finished, f)
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	var err error
	if w.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := w.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (w *world) dial(ctx context.Context, network, target string) (net.Conn, error) {
	switch {
	case strings.HasPrefix(target, "forbidden:"):
		return nil, fmt.Errorf("%w: %s", ErrForbidden, target)
	case strings.HasPrefix(target, "full:"):
		return nil, ErrLimit
	case strings.HasPrefix(target, "slow:"):
		<-ctx.Done()
		return nil, syscall.ETIMEDOUT
	}
	at, ok := w.names[target]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: target, IsNotFound: true}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, at)
}

// flows waits for n finished flows.
func (w *world) flows(n int) (list []Flow) {
	w.t.Helper()
	testwait.Until(w.t, "the flows to end", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if list = w.finished; len(list) != n {
			return fmt.Errorf("%d flows have ended, want %d", len(list), n)
		}
		return nil
	})
	return list
}

func echoUDP(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	return c.LocalAddr().String()
}

func (w *world) socks(target string) (net.Conn, error) {
	d, err := proxy.SOCKS5("tcp", w.addr, nil, proxy.Direct)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := d.Dial("tcp", target)
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(testwait.Limit()))
	}
	return c, err
}

// exchange sends bytes to a [duplextest.Echo], ends its stream, and expects them back and the server's end.
func exchange(t *testing.T, c net.Conn, size int) {
	t.Helper()
	sent := bytes.Repeat([]byte("0123456789"), size/10)
	go func() {
		c.Write(sent)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append(sent, "end"...)) {
		t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(sent)+3)
	}
}

func TestSOCKS5(t *testing.T) {
	at := duplextest.Echo(t)
	w := newWorld(t, map[string]string{"db:5432": at, "100.64.0.9:22": at, "[fd7a::9]:22": at, "closed:1": freeAddress(t)}, nil)
	for _, target := range []string{"db:5432", "100.64.0.9:22", "[fd7a::9]:22"} {
		c, err := w.socks(target)
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c, 1_000_000)
	}
	for i, f := range w.flows(3) {
		if f.Via != "socks5" || f.Protocol != "tcp" || f.ToTailnetBytes != 1_000_000 || f.ToVPCBytes != 1_000_003 || f.End != "closed" ||
			f.Address.String() != at || !f.Client.Addr().IsLoopback() || i == 0 && f.Target != "db:5432" {
			t.Errorf("%+v", f)
		}
	}
	for target, want := range map[string]string{
		"closed:1": "refused", "none:1": "host unreachable", "forbidden:1": "not allowed", "full:1": "general",
	} {
		if _, err := w.socks(target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
	}
	got, err := testutil.GatherAndCount(w.reg, "router_egress_flows_opened_total")
	if err != nil || got != 3 {
		t.Errorf("%d series, %v", got, err)
	}
}

// TestSOCKS5Requests: malformed requests, and commands that are not served, end the connection.
func TestSOCKS5Requests(t *testing.T) {
	w := newWorld(t, nil, func(c *Config) { c.HTTP = "" })
	for _, c := range []struct{ send, want string }{
		{"\x04\x01", ""},
		{"GET / HTTP/1.1\r\n\r\n", ""},
		{"\x05\x01\x02", "\x05\xff"}, // only with a password
		{"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"}, // BIND
		{"\x05\x01\x00\x05\x01\x00\x09", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},                         // an unknown address
		{"\x05\x01\x00\x05\x01\x00\x03\x03a b\x00\x50", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x00", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
		{"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", "\x05\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"},
	} {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(testwait.Limit()))
		io.WriteString(conn, c.send)
		got, _ := io.ReadAll(conn) // unread bytes may cause a reset
		if string(got) != c.want {
			t.Errorf("%q: answer %q, want %q", c.send, got, c.want)
		}
		conn.Close()
	}
}

func TestCONNECT(t *testing.T) {
	w := newWorld(t, map[string]string{"db:5432": duplextest.Echo(t), "closed:1": freeAddress(t)}, nil)
	connect := func(target, early string) (*bufio.Reader, net.Conn, *http.Response) {
		t.Helper()
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(testwait.Limit()))
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n%s", target, target, early)
		r := bufio.NewReader(c)
		answer, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil {
			t.Fatal(err)
		}
		return r, c, answer
	}
	// Bytes that follow the request at once are not lost.
	r, c, answer := connect("db:5432", "early")
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(r); string(got) != "earlyend" {
		t.Errorf("%q, %v", got, err)
	}
	if f := w.flows(1)[0]; f.Via != "http" || f.Target != "db:5432" || f.ToTailnetBytes != 5 || !f.Client.IsValid() {
		t.Errorf("%+v", f)
	}
	for target, want := range map[string]int{"forbidden:1": 403, "none:1": 502, "closed:1": 502, "full:1": 503, "db": 400, "db:0": 400} {
		if _, _, answer := connect(target, ""); answer.StatusCode != want {
			t.Errorf("%s: %s, want %d", target, answer.Status, want)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	seen := make(chan *http.Request, 1)
	origin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r:
		default:
		}
		rw.Header().Set("X-Own", "1")
		io.Copy(rw, r.Body)
	}))
	defer origin.Close()
	w := newWorld(t, map[string]string{"web:80": strings.TrimPrefix(origin.URL, "http://")}, nil)
	via := http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("http://" + w.addr) }}, Timeout: testwait.Limit()}
	request, _ := http.NewRequest(http.MethodPost, "http://web/path?a=1;b=2&q=100%&q=1", strings.NewReader("hello"))
	request.Header = http.Header{"Proxy-Authorization": {"x"}, "X-Forwarded-For": {"10.0.0.1"}, "X-Mine": {"1"}}
	answer, err := via.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	r := <-seen
	if string(body) != "hello" || answer.Header.Get("X-Own") != "1" || r.Host != "web" || r.URL.String() != "/path?a=1;b=2&q=100%&q=1" ||
		r.Header.Get("X-Forwarded-For") != "10.0.0.1" || r.Header.Get("Proxy-Authorization") != "" || r.Header.Get("X-Mine") != "1" {
		t.Errorf("%q, %v; the target got %v %v %v", body, answer.Header, r.Host, r.URL, r.Header)
	}
	if f := w.flows(1)[0]; f.Target != "web:80" || f.ToVPCBytes == 0 || !f.Client.IsValid() {
		t.Errorf("%+v", f)
	}
	if answer, err = via.Get("http://forbidden:1/"); err != nil || answer.StatusCode != http.StatusForbidden {
		t.Errorf("%v, %v", answer, err)
	}
	if answer, err = http.Get("http://" + w.addr + "/metrics"); err != nil || answer.StatusCode != http.StatusBadRequest {
		t.Errorf("a request for the proxy itself: %v, %v", answer, err)
	}
}

func TestPort(t *testing.T) {
	ports := []Port{
		{Listen: freeAddress(t), Target: "db:5432"}, {Listen: freeAddress(t), Target: "none:1"}, {Listen: freeAddress(t), UDP: true, Target: "ns:53"},
	}
	w := newWorld(t, map[string]string{"db:5432": duplextest.Echo(t), "ns:53": echoUDP(t)}, func(c *Config) { c.SOCKS5, c.HTTP, c.Ports = "", "", ports })
	c, err := net.Dial("tcp", ports[0].Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c, 100_000)
	if f := w.flows(1)[0]; f.Via != "port" || f.Target != "db:5432" {
		t.Errorf("%+v", f)
	}
	c, err = net.Dial("tcp", ports[1].Listen)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) { // which may arrive before Dial returns
		t.Errorf("a port whose target does not exist: %v, want a reset", err)
	}
	for range 3 { // clients have answers of their own
		u, err := net.Dial("udp", ports[2].Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		u.SetDeadline(time.Now().Add(testwait.Limit()))
		io.WriteString(u, u.LocalAddr().String())
		buf := make([]byte, 100)
		if n, err := u.Read(buf); string(buf[:n]) != u.LocalAddr().String() {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
	if len(w.opened) != 3 {
		t.Errorf("%d listeners were reported", len(w.opened))
	}
}

// associate opens a UDP association, and returns its connection and a socket for it.
func (w *world) associate() (control net.Conn, socket *net.UDPConn) {
	w.t.Helper()
	control, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { control.Close() })
	control.SetDeadline(time.Now().Add(testwait.Limit()))
	control.Write([]byte("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || answer[3] != 0 {
		w.t.Fatal(answer, err)
	}
	at, err := readAddress(bytes.NewReader(answer[5:]))
	if err != nil || at != w.addr {
		w.t.Fatalf("the association is at %s, %v, want %s", at, err, w.addr)
	}
	to, _ := net.ResolveUDPAddr("udp", at)
	socket, err = net.DialUDP("udp", nil, to)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { socket.Close() })
	return control, socket
}

func TestAssociate(t *testing.T) {
	at := echoUDP(t)
	w := newWorld(t, map[string]string{"ns:53": at, "100.64.0.9:53": at}, nil)
	control, socket := w.associate()
	buf := make([]byte, 2000)
	want := string(appendAddress([]byte{0, 0, 0}, netip.MustParseAddrPort(at))) + "question"
	for _, request := range []string{"\x00\x00\x00\x03\x02ns\x00\x35question", "\x00\x00\x00\x01\x64\x40\x00\x09\x00\x35question"} {
		socket.SetDeadline(time.Now().Add(testwait.Limit()))
		io.WriteString(socket, request)
		if n, err := socket.Read(buf); string(buf[:n]) != want {
			t.Errorf("%q, %v, want %q", buf[:n], err, want)
		}
	}
	silent := func(name string, s *net.UDPConn, request string) {
		t.Helper()
		s.SetDeadline(time.Now().Add(100 * time.Millisecond))
		io.WriteString(s, request)
		if n, err := s.Read(buf); err == nil {
			t.Errorf("%s: the answer %q", name, buf[:n])
		}
	}
	silent("a fragment", socket, "\x00\x00\x01\x03\x02ns\x00\x35question")
	silent("a truncated datagram", socket, "\x00\x00\x00\x03\x02n")
	silent("a forbidden target", socket, "\x00\x00\x00\x03\x09forbidden\x00\x35question")
	stranger, err := net.DialUDP("udp", nil, socket.RemoteAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	silent("a second source", stranger, "\x00\x00\x00\x03\x02ns\x00\x35question")

	control.Close()
	for _, f := range w.flows(2) {
		if f.Protocol != "udp" || f.Via != "socks5" || f.ToTailnetBytes != 8 || f.ToVPCBytes != 8 {
			t.Errorf("%+v", f)
		}
	}
	silent("after the end", socket, "\x00\x00\x00\x03\x02ns\x00\x35question")

	// The bound of one address.
	var list []*association
	for range maxAssociationsPerAddress + 1 {
		list = append(list, &association{addr: netip.MustParseAddr("10.0.0.1")})
	}
	a := &associations{}
	for i, x := range list {
		if a.add(x) != (i < maxAssociationsPerAddress) {
			t.Errorf("association %d", i)
		}
	}
}

// TestLimits: connections past the limit are reset, those of one address at half of it.
func TestLimits(t *testing.T) {
	w := newWorld(t, map[string]string{"db:1": duplextest.Echo(t)}, nil)
	for range 4 {
		if _, err := w.socks("db:1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.socks("db:1"); err == nil {
		t.Error("a fifth connection of one address, of eight")
	}
	s := newSessions(w.Server)
	s.draining = false
	for i := range maxSessionsPerAddress + 10 {
		s.deliver(w.ctx, sessionKey{client: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i+1)), target: "slow:1"}, viaPort, []byte("x"), nil)
	}
	p := newPending(unlimited{})
	for _, size := range []int{60_000, 10, 60_000} {
		p.add(make([]byte, size))
	}
	if len(p.queue) != 1 || p.bytes.Load() != 60_000 {
		t.Errorf("%d datagrams wait, %d bytes", len(p.queue), p.bytes.Load())
	}
	if len(s.open) != maxSessionsPerAddress {
		t.Errorf("%d sessions, want %d", len(s.open), maxSessionsPerAddress)
	}
}

// TestMemory: the buffers of connections and sessions, and the datagrams that wait, are in the budget. Without room, a
// connection is refused and a datagram dropped.
func TestMemory(t *testing.T) {
	const conn = 2 * duplex.BufferSize
	memory := &duplextest.Budget{Size: 2*conn + conn/2}
	names := map[string]string{"db:1": duplextest.Echo(t), "ns:53": echoUDP(t)}
	w := newWorld(t, names, func(cfg *Config) { cfg.Memory = memory })
	for _, target := range []string{"gone:1", "forbidden:1"} {
		if _, err := w.socks(target); err == nil {
			t.Errorf("%s was reached", target)
		}
	}
	memory.Await(t, 0)
	var open []net.Conn
	for range 2 {
		c, err := w.socks("db:1")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	memory.Await(t, 2*conn)
	if _, err := w.socks("db:1"); err == nil {
		t.Error("a third connection has buffers outside of the budget")
	}
	if n := testutil.ToFloat64(w.metrics.failures.WithLabelValues("tcp", string(limited))); n != 1 {
		t.Errorf("%v connections were limited, want 1", n)
	}
	for _, c := range open {
		c.Close()
	}
	memory.Await(t, 0)
	if _, err := w.socks("db:1"); err != nil {
		t.Errorf("once there is memory again: %v", err)
	}
	w.Close()
	memory.Await(t, 0)

	// Datagrams wait while their session is opened.
	memory = &duplextest.Budget{Size: maxDatagram + 1000}
	w = newWorld(t, names, func(cfg *Config) { cfg.Memory = memory })
	ctx, end := context.WithCancel(w.ctx)
	defer end()
	for _, step := range []struct{ size, inUse int }{{600, 600}, {600, 600}, {300, 900}} {
		w.sessions.deliver(ctx, sessionKey{target: "slow:1"}, viaPort, make([]byte, step.size), nil)
		memory.Await(t, int64(maxDatagram+step.inUse))
	}
	end()
	memory.Await(t, 0)
}

// TestStatus: the status has the flows of each target, those with open ones first.
func TestStatus(t *testing.T) {
	at := duplextest.Echo(t)
	w := newWorld(t, map[string]string{"a:1": at, "b:1": at}, func(cfg *Config) {
		cfg.Ports = []Port{{Listen: "127.0.0.1:0", Target: "port:1"}}
	})
	a, err := w.socks("a:1")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, a, 1000)
	w.flows(1)
	b, err := w.socks("b:1")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := w.Status()
	want := []Target{{Name: "b:1", Open: 1, Opened: 1}, {Name: "a:1", Opened: 1, ToTailnetBytes: 1000, ToVPCBytes: 1003}, {Name: "port:1"}}
	if !slices.Equal(got.Targets, want) || got.Connections != 1 || got.Limit != 8 {
		t.Errorf("%+v, want %+v and 1 of 8 connections", got, want)
	}
}

// TestManyTargets: further targets are counted together.
func TestManyTargets(t *testing.T) {
	m := newMetrics([]Port{{Target: "configured:1"}}, newAdmission(1))
	for i := range 2 * maxTargets {
		m.opened("tcp", fmt.Sprintf("host-%d:1", i))
	}
	if list := m.describe(); len(list) != maxTargets+1 || list[0].Name != otherTargets || list[0].Open != maxTargets+1 {
		t.Errorf("the status has %d targets, first %+v", len(list), list[0])
	}
	if n := testutil.CollectAndCount(m.flows); n != maxTargets+1 { // and the others
		t.Errorf("%d series, want %d", n, maxTargets+1)
	}
	if m.target("configured:1").label == otherTargets {
		t.Error("a configured target has no series")
	}
}

// TestDrain: the listeners close, and open connections continue until they end, or are cut.
func TestDrain(t *testing.T) {
	w := newWorld(t, map[string]string{"db:1": duplextest.Echo(t)}, nil)
	c, err := w.socks("db:1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.socks("db:1")
	if err != nil {
		t.Fatal(err)
	}
	w.Drain()
	if _, err := w.socks("db:1"); err == nil {
		t.Error("a new connection was accepted")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if n := w.Wait(short); n != 2 {
		t.Errorf("%d connections are open, want 2", n)
	}
	exchange(t, c, 100_000)
	w.flows(1)
	w.Close()
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was cut: %v, want a reset", err)
	}
	if f := w.flows(2)[1]; f.End != "failed" {
		t.Errorf("%+v", f)
	}
	if n := w.Wait(t.Context()); n != 0 {
		t.Errorf("%d connections are open", n)
	}
}

// TestDrainBeforeOpen: a drain may begin before the router has joined and opens its listeners. Then there are none.
func TestDrainBeforeOpen(t *testing.T) {
	cfg := Config{
		SOCKS5: freeAddress(t), HTTP: freeAddress(t), Connections: 8, Logger: slog.New(slog.DiscardHandler),
		Ports:  []Port{{Listen: freeAddress(t), Target: "db:1"}, {Listen: freeAddress(t), UDP: true, Target: "ns:53"}},
		Opened: func(a net.Addr) { t.Errorf("%v was opened in a drain", a) },
		Dial:   func(context.Context, string, string) (net.Conn, error) { return nil, ErrForbidden },
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Drain()
	if err := s.Open(); err != nil {
		t.Errorf("opening: %v", err)
	}
	for _, at := range []string{cfg.SOCKS5, cfg.HTTP, cfg.Ports[0].Listen} {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			t.Errorf("%s is open in a drain", at)
		}
	}
}

// TestDrainWhileOpening: a drain leaves no listener open if it begins while they are opened.
func TestDrainWhileOpening(t *testing.T) {
	for range 20 {
		s, err := New(Config{
			SOCKS5: "127.0.0.1:0", HTTP: freeAddress(t), Connections: 8, Logger: slog.New(slog.DiscardHandler), Opened: func(net.Addr) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			s.Drain()
		}()
		if err := s.Open(); err != nil {
			t.Error(err)
		}
		<-drained
		s.mu.Lock()
		left := len(s.listeners)
		s.mu.Unlock()
		if left > 0 {
			t.Errorf("%d listeners are open after a drain", left)
		}
		s.Close()
	}
}

// TestOpenFails: an address in use is an error that names the setting.
func TestOpenFails(t *testing.T) {
	ln := duplextest.Listen(t)
	for setting, cfg := range map[string]Config{
		"ROUTER_SOCKS5_LISTEN": {SOCKS5: ln.Addr().String()}, "ROUTER_HTTP_PROXY_LISTEN": {HTTP: ln.Addr().String()},
		"ROUTER_EGRESS": {Ports: []Port{{Listen: ln.Addr().String(), Target: "db:1"}}},
	} {
		cfg.Logger, cfg.Opened = slog.New(slog.DiscardHandler), func(net.Addr) {}
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Open(); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

// FuzzSOCKS5: any bytes are a request or an error, and a target that passes has the form host:port.
func FuzzSOCKS5(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x02db\x15\x38"))
	f.Add([]byte("\x05\x02\x00\x02\x05\x03\x00\x04aaaaaaaaaaaaaaaa\x00\x35"))
	f.Add([]byte("\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35data"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var answer bytes.Buffer
		_, to, err := readSOCKS5(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), &answer})
		if answer.Len() > 2 {
			t.Errorf("the answer %q", answer.Bytes())
		}
		if err == nil && checkTarget(to) == nil {
			if _, _, err := net.SplitHostPort(to); err != nil {
				t.Error(err)
			}
		}
		if to, data, ok := parseDatagram(b); ok && (to == "" || len(data) > len(b)-10+6) {
			t.Errorf("target %q, %d bytes of %d", to, len(data), len(b))
		}
	})
}
