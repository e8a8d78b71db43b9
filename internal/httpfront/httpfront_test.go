package httpfront

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/duplextest"
	"subnetrouter/internal/testwait"
)

var (
	laptop = netip.MustParseAddr("100.64.0.2") // a user's
	server = netip.MustParseAddr("100.64.0.9") // has tags
)

// world is a server with a target, and a listener that hands connections over as a front does.
type world struct {
	*testing.T
	server  *Server
	handler http.HandlerFunc // of the target
	target  *httptest.Server
	plain   string // address without TLS
	secure  string // with TLS

	mu     sync.Mutex
	from   Peer // of new connections
	failed map[Reason]int
}

func start(t *testing.T, change func(*world, *Config)) *world {
	t.Helper()
	w := &world{T: t, failed: map[Reason]int{}}
	w.target = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.handler(rw, r) }))
	w.target.Config.Protocols = new(http.Protocols)
	w.target.Config.Protocols.SetHTTP1(true)
	w.target.Config.Protocols.SetUnencryptedHTTP2(true)
	w.target.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	w.target.Start()
	t.Cleanup(w.target.Close)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // the client goes, in some tests
		rw.Write(body)
	}
	w.from = Peer{Client: laptop, Source: laptop, Target: w.target.Listener.Addr().(*net.TCPAddr).AddrPort()}
	cfg := Config{
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to.String())
		},
		Owner: func(a netip.Addr) User {
			if a == laptop {
				return User{"ann@example.com", "Ann Example", "https://example.com/ann.png"}
			}
			return User{}
		},
		Current:  func(netip.AddrPort) bool { return true },
		OwnName:  func(host string) bool { return host == "edge.test" || host == "127.0.0.1" },
		Requests: 100, Memory: &duplextest.Budget{Size: 1 << 30}, Logger: slog.New(slog.DiscardHandler),
		Failed: func(r Reason, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failed[r]++
		},
	}
	if change != nil {
		change(w, &cfg)
	}
	w.server = New(cfg)
	w.server.silence = time.Second
	for _, h := range w.server.halves {
		h.http.ReadHeaderTimeout = time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { w.server.Serve(ctx) })
	listen := func(config *tls.Config) string {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				w.mu.Lock()
				from := w.from
				w.mu.Unlock()
				group.Go(func() {
					defer c.Close()
					defer context.AfterFunc(ctx, func() { c.Close() })()
					if config == nil {
						w.server.Handle(c, from)
						return
					}
					over := tls.Server(c, config)
					if over.Handshake() == nil {
						w.server.Handle(over, from)
					}
				})
			}
		})
		context.AfterFunc(ctx, func() { ln.Close() })
		return ln.Addr().String()
	}
	w.plain, w.secure = listen(nil), listen(&tls.Config{Certificates: []tls.Certificate{duplextest.Certificate(t)}, NextProtos: []string{"h2", "http/1.1"}})
	t.Cleanup(func() {
		cancel()
		group.Wait()
		w.server.proxy.Transport.(*http.Transport).CloseIdleConnections()
		testwait.Until(t, "everything that was taken", func() error {
			w.server.mu.Lock()
			defer w.server.mu.Unlock()
			used := cfg.Memory.(*duplextest.Budget).Used()
			if w.server.open != 0 || w.server.awaited != 0 || len(w.server.clients) != 0 || w.server.targets != 0 || used != 0 {
				return fmt.Errorf("%d and %d requests, of %v, %d connections and %d bytes", w.server.open, w.server.awaited, w.server.clients, w.server.targets, used)
			}
			return nil
		})
	})
	return w
}

// clients are HTTP clients of each kind, with the URL that each uses.
func (w *world) clients() map[string]*client {
	out := map[string]*client{}
	for name, url := range map[string]string{"http": "http://" + w.plain, "https": "https://" + w.secure, "h2": "https://" + w.secure} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols)} //nolint:gosec // the e2e test verifies
		transport.Protocols.SetHTTP1(name != "h2")
		transport.Protocols.SetHTTP2(name == "h2")
		w.Cleanup(transport.CloseIdleConnections)
		out[name] = &client{w, url, &http.Client{Transport: transport}}
	}
	return out
}

type client struct {
	w    *world
	url  string
	http *http.Client
}

// do sends a request, and returns the status and the body of the answer.
func (c *client) do(change func(*http.Request), body io.Reader) (int, string) {
	c.w.Helper()
	req, err := http.NewRequestWithContext(c.w.Context(), http.MethodPost, c.url+"/path?a=1;b=%zz", body)
	if err != nil {
		c.w.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.w.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		c.w.Error(err)
	}
	return res.StatusCode, string(got)
}

// raw sends a text without TLS, and returns everything that comes back until the end.
func (w *world) raw(text string) string {
	w.Helper()
	c, err := net.Dial("tcp4", w.plain)
	if err != nil {
		w.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testwait.Limit()))
	io.WriteString(c, text)
	got, err := io.ReadAll(c) // a reset may follow the answer
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.Errorf("the connection is open after %.100q", text)
	}
	return string(got)
}

// comeFrom changes the peer of new connections.
func (w *world) comeFrom(change func(*Peer)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.from)
}

func (w *world) failures(r Reason) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed[r]
}

// TestHeaders: the target gets the headers of the proxy only, whatever a client sends, and the request as it was otherwise.
func TestHeaders(t *testing.T) {
	var got *http.Request
	w := start(t, nil)
	w.handler = func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got = r
	}
	forge := func(r *http.Request) {
		for _, name := range []string{
			"Tailscale-User-Login", "tailscale_user_login", "Tailscale_User_Login", "TAILSCALE-USER-NAME", "Tailscale.User.Login", "tailscale-User_profile-Pic",
			"Tailscale-Headers-Info", "Tailscale-Funnel-Request", "Tailscale-App-Capabilities", "Tailscale-Other", "X_Forwarded_For", "x-forwarded_user", "X-Forwarded-Port", "Forwarded",
		} {
			r.Header[name] = []string{"root@example.com"}
		}
		r.Header.Set("X-Forwarded-For", "10.9.9.9")
		r.Header.Set("X-Forwarded-Host", "evil.test")
		r.Header.Set("X-Forwarded-Proto", "gopher")
		r.Header["X-Kept"] = []string{"a", "b"}
		r.Trailer = http.Header{"Tailscale-User-Login": {"root@example.com"}}
	}
	for _, name := range []string{"http", "https", "h2"} {
		for _, tt := range []struct {
			from netip.Addr
			want map[string]string
		}{
			{laptop, map[string]string{
				"Tailscale-User-Login": "ann@example.com", "Tailscale-User-Name": "Ann Example", "Tailscale-User-Profile-Pic": "https://example.com/ann.png",
				"Tailscale-Headers-Info": "https://tailscale.com/s/serve-headers",
			}},
			{server, nil},
		} {
			w.comeFrom(func(p *Peer) { p.Source = tt.from })
			if code, body := w.clients()[name].do(func(r *http.Request) { // on a connection of its own
				forge(r)
				r.Host = "edge.test:123"
				if name != "h2" {
					r.Header.Set("Connection", "Tailscale-User-Login, X-Forwarded-For, X-Forwarded-Proto")
				}
			}, io.MultiReader(strings.NewReader("chunked"))); code != http.StatusOK {
				t.Fatalf("%s: %d %s", name, code, body)
			}
			want := map[string]string{"X-Forwarded-For": tt.from.String(), "X-Forwarded-Host": "edge.test:123", "X-Forwarded-Proto": map[string]string{"http": "http"}[name]}
			if name != "http" {
				want["X-Forwarded-Proto"] = "https"
			}
			maps.Copy(want, tt.want)
			for k, v := range want {
				if !slices.Equal(got.Header[k], []string{v}) {
					t.Errorf("%s from %s: %s is %q, want %q", name, tt.from, k, got.Header[k], v)
				}
			}
			for k := range got.Header {
				if plain := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(k)); want[k] == "" && (strings.Contains(plain, "tailscale") || strings.Contains(plain, "forwarded")) {
					t.Errorf("%s from %s: the target gets %s: %q", name, tt.from, k, got.Header[k])
				}
			}
			if len(got.Trailer) != 0 {
				t.Errorf("%s: trailers %v", name, got.Trailer)
			}
			if got.Host != "edge.test:123" || got.URL.Path != "/path" || got.URL.RawQuery != "a=1;b=%zz" || !slices.Equal(got.Header["X-Kept"], []string{"a", "b"}) {
				t.Errorf("%s: %s %s, %v", name, got.Host, got.URL, got.Header)
			}
		}
	}
}

// TestOtherNames: without TLS, the page of a stranger's name that leads to this node does not act as the user.
func TestOtherNames(t *testing.T) {
	w := start(t, nil)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, r.Host+" "+r.Header.Get("Tailscale-User-Login"))
	}
	for name, c := range w.clients() {
		for host, own := range map[string]bool{"edge.test": true, "EDGE.test.:80": true, "evil.test": false, "evil.test:80": false, "edge.test.evil.test": false, "[::1]:80": false, "127.0.0.1": true} {
			want := host + " "
			if own || name != "http" {
				want += "ann@example.com"
			}
			if _, got := c.do(func(r *http.Request) { r.Host = host }, nil); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
	}
	if got := w.raw("GET / HTTP/1.0\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 200 OK") || strings.Contains(got, "ann") {
		t.Errorf("without a host: %q", got)
	}
}

func TestEncode(t *testing.T) {
	for text, want := range map[string]string{
		"ann@example.com": "ann@example.com", "": "", "Ann Ünal": "=?utf-8?q?Ann_=C3=9Cnal?=", "a\r\nX-Evil: 1": "=?utf-8?q?a=0D=0AX-Evil:_1?=", "\xff": "",
	} {
		if got := encode(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// TestBodies: a large body arrives whole, and comes back whole.
func TestBodies(t *testing.T) {
	w := start(t, nil)
	want := strings.Repeat("0123456789abcdef", 1<<16)
	for name, c := range w.clients() {
		for _, body := range []io.Reader{strings.NewReader(want), io.MultiReader(strings.NewReader(want))} {
			if code, got := c.do(nil, body); code != http.StatusOK || got != want {
				t.Errorf("%s: %d, %d bytes", name, code, len(got))
			}
		}
	}
}

// TestStreams: each part of an answer arrives at once, also of one with a length.
func TestStreams(t *testing.T) {
	w := start(t, nil)
	const first = "data: 1\n\n"
	parts := make(chan string)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", r.URL.Query().Get("type"))
		if r.URL.Query().Has("length") {
			rw.Header().Set("Content-Length", "18")
		}
		rw.(http.Flusher).Flush()
		for p := range parts {
			io.WriteString(rw, p)
			rw.(http.Flusher).Flush()
		}
	}
	for name, c := range w.clients() {
		for kind, awaited := range map[string]int{"text/event-stream": 0, "text/plain": 1, "text/plain&length": 1} {
			parts = make(chan string)
			res, err := c.http.Get(c.url + "/?type=" + kind)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{first, "data: 2\n\n"} {
				parts <- p
				got := make([]byte, len(p))
				if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != p {
					t.Errorf("%s: got %q, %v", name, got, err)
				}
				if p != first {
					break
				}
				testwait.Until(t, "the end of the request before this", func() error {
					if n := w.server.Awaited(); n != awaited {
						return fmt.Errorf("%s: a drain waits for %d answers of the type %s, want %d", name, n, kind, awaited)
					}
					return nil
				})
			}
			close(parts)
			res.Body.Close()
		}
	}
}

// TestUpgrade: a connection that switches protocols carries bytes both ways, and the end of each side.
func TestUpgrade(t *testing.T) {
	w := start(t, nil)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		c, buffered, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		io.Copy(c, buffered)
		io.WriteString(c, "end of "+r.Header.Get("Tailscale-User-Login"))
	}
	for _, secure := range []bool{false, true} {
		c, err := net.Dial("tcp4", w.plain)
		if secure {
			c, err = tls.Dial("tcp4", w.secure, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the e2e test verifies
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET /socket HTTP/1.1\r\nHost: edge.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n")
		in := bufio.NewReader(c)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "websocket" {
			t.Fatalf("%v, %v", res, err)
		}
		if n := w.server.Awaited(); n != 0 {
			t.Errorf("a drain waits for %d connections", n)
		}
		for _, text := range []string{"ping", strings.Repeat("x", 1<<20)} {
			go io.WriteString(c, text)
			got := make([]byte, len(text))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != text {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(in); err != nil || string(got) != "end of ann@example.com" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// TestUpgradeEnds: a client that does not close a connection whose target has ended does not keep it.
func TestUpgradeEnds(t *testing.T) {
	w := start(t, nil)
	w.handler = func(rw http.ResponseWriter, _ *http.Request) {
		c, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye")
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	}
	c, err := net.Dial("tcp4", w.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: edge.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(got), "\r\n\r\nbye") {
		t.Errorf("got %q, %v", got, err)
	}
	testwait.Until(t, "the end of the request", func() error {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		if w.server.open != 0 {
			return fmt.Errorf("%d requests are open", w.server.open)
		}
		return nil
	})
}

// TestOtherUpgrades: a switch to a protocol that the client did not ask for, or that may carry requests, is refused, and leaves no
// connection to the target behind.
func TestOtherUpgrades(t *testing.T) {
	w := start(t, nil)
	const websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	for name, tt := range map[string]struct{ request, answer string }{
		"a list in the answer": {websocket, "Connection: Upgrade\r\nUpgrade: websocket, x\r\n"},
		"another protocol":     {websocket, "Connection: Upgrade\r\nUpgrade: h2c\r\n"},
		"a control character":  {websocket, "Connection: Upgrade\r\nUpgrade: web\u00f6\r\n"},
		"no token":             {websocket, "Upgrade: websocket\r\n"},
		"no protocol":          {websocket, ""},
		"unsolicited":          {"", websocket},
		"h2c":                  {"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"},
	} {
		w.handler = func(rw http.ResponseWriter, r *http.Request) {
			c, _, err := rw.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+tt.answer+"\r\n")
			io.Copy(io.Discard, c) // only the proxy ends it
		}
		if got := w.raw("GET / HTTP/1.1\r\nHost: edge.test\r\n" + tt.request + "\r\n"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
			t.Errorf("%s: got %q", name, got)
		}
		testwait.Until(t, "the end of the connection to the target", func() error {
			w.server.mu.Lock()
			defer w.server.mu.Unlock()
			if w.server.targets != 0 {
				return fmt.Errorf("%s: %d connections to targets", name, w.server.targets)
			}
			return nil
		})
	}
}

// TestNoUpgrade: a request for a protocol other than WebSocket reaches the target without its wish.
func TestNoUpgrade(t *testing.T) {
	w := start(t, nil)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "%q %q", r.Header["Connection"], r.Header["Upgrade"])
	}
	for _, upgrade := range []string{"Upgrade: h2c\r\n", "Upgrade: h2c, websocket\r\n", "Upgrade: websocket, h2c\r\n", "Upgrade: h2c\r\nUpgrade: websocket\r\n", "Upgrade: SPDY/3.1\r\n", "Upgrade: \xff\r\n", "upgrade: H2C\r\n"} {
		got := w.raw("GET / HTTP/1.1\r\nHost: edge.test\r\nConnection: close, Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" + upgrade + "\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "[] []") {
			t.Errorf("%q: got %q", upgrade, got)
		}
	}
}

// TestAbandonedDials: requests that their clients cancel leave a bounded number of dials behind.
func TestAbandonedDials(t *testing.T) {
	dialing, end := make(chan bool, 1000), make(chan bool)
	w := start(t, func(_ *world, c *Config) {
		c.Requests = 2
		c.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
			dialing <- true
			<-end
			return nil, errors.New("no answer")
		}
	})
	abandon := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+w.secure, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan bool)
		go func() {
			w.clients()["h2"].http.Do(req) //nolint:bodyclose // it has no answer
			gone <- true
		}()
		<-dialing
		cancel()
		<-gone
		testwait.Until(t, "the end of the request", func() error {
			w.server.mu.Lock()
			defer w.server.mu.Unlock()
			if w.server.open != 0 {
				return fmt.Errorf("%d requests are open", w.server.open)
			}
			return nil
		})
	}
	for range 1 + IdleTargets { // the share of a client
		abandon()
	}
	refused := func(who string) {
		t.Helper()
		if code, got := w.clients()["http"].do(nil, nil); code != http.StatusServiceUnavailable {
			t.Errorf("one more of %s: %d %q", who, code, got)
		}
	}
	refused("a client with its share")
	w.comeFrom(func(p *Peer) { p.Client = server })
	abandon()
	refused("a client when there is no room")
	if n := len(dialing); n != 0 {
		t.Errorf("%d dials more", n)
	}
	close(end)
}

// TestGRPC: a request of gRPC reaches its target by HTTP/2, and its trailers come back.
func TestGRPC(t *testing.T) {
	w := start(t, nil)
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprintf(rw, "%s %s %s", r.Proto, r.Header.Get("Te"), r.Header.Get("Tailscale-User-Login"))
		rw.Header().Set("Grpc-Status", "0")
	}
	req, err := http.NewRequest(http.MethodPost, w.clients()["h2"].url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Te", "trailers")
	for range 2 {
		req.Body = io.NopCloser(strings.NewReader("x"))
		res, err := w.clients()["h2"].http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(got) != "HTTP/2.0 trailers ann@example.com" || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("got %q, %v, %v", got, res.Trailer, err)
		}
	}
}

// TestGRPCConnections: requests of gRPC at one time have a connection to the target each.
func TestGRPCConnections(t *testing.T) {
	inside, leave := make(chan string), make(chan bool)
	all := make(chan bool) // have begun to dial
	var dials atomic.Int32
	w := start(t, func(_ *world, c *Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			if dials.Add(1) == 10 {
				close(all)
			}
			<-all
			return dial(ctx, to)
		}
	})
	w.handler = func(_ http.ResponseWriter, r *http.Request) {
		inside <- r.RemoteAddr
		<-leave
	}
	c := w.clients()["h2"]
	var group sync.WaitGroup
	seen := map[string]bool{}
	for range 10 {
		group.Go(func() {
			if code, got := c.do(func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc") }, strings.NewReader("x")); code != http.StatusOK {
				t.Errorf("%d %q", code, got)
			}
		})
	}
	for range 10 {
		seen[<-inside] = true
	}
	close(leave)
	group.Wait()
	if len(seen) != 10 {
		t.Errorf("10 requests have %d connections", len(seen))
	}
}

// TestTargetFails: clients get a plain sentence, and the reason is counted.
func TestTargetFails(t *testing.T) {
	w := start(t, nil)
	const want = "the program behind this port does not answer\n"
	w.handler = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, c := range w.clients() {
		before := w.failures(Target)
		if code, got := c.do(nil, strings.NewReader("body")); code != http.StatusBadGateway || got != want {
			t.Errorf("%s: %d %q", name, code, got)
		}
		if n := w.failures(Target) - before; n != 1 {
			t.Errorf("%s: %d failures", name, n)
		}
	}
	w.target.Close()
	for name, c := range w.clients() {
		if code, got := c.do(nil, strings.NewReader("body")); code != http.StatusBadGateway || got != want {
			t.Errorf("%s: %d %q", name, code, got)
		}
	}
}

// TestTargetMoves: a request on a connection to a former target reaches no target, and ends the connection.
func TestTargetMoves(t *testing.T) {
	var moved atomic.Bool
	var former netip.AddrPort
	w := start(t, func(w *world, c *Config) {
		former = w.from.Target
		c.Current = func(a netip.AddrPort) bool { return a != former || !moved.Load() }
	})
	other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "other") }))
	defer other.Close()
	for name, c := range w.clients() {
		moved.Store(false)
		w.comeFrom(func(p *Peer) { p.Target = former })
		if code, got := c.do(nil, strings.NewReader("first")); code != http.StatusOK || got != "first" {
			t.Errorf("%s: %d %q", name, code, got)
		}
		moved.Store(true)
		w.comeFrom(func(p *Peer) { p.Target = other.Listener.Addr().(*net.TCPAddr).AddrPort() })
		before := w.failures(Target)
		if code, got := c.do(nil, nil); code != http.StatusServiceUnavailable || got != "the program behind this port has moved: try again\n" {
			t.Errorf("%s: %d %q", name, code, got)
		}
		if n := w.failures(Target) - before; n != 1 {
			t.Errorf("%s: %d failures", name, n)
		}
		testwait.Until(t, "a new connection", func() error { // a client with HTTP/2 may send a request before it reads GOAWAY
			if code, got := c.do(nil, nil); code != http.StatusOK || got != "other" {
				return fmt.Errorf("%s: %d %q", name, code, got)
			}
			return nil
		})
	}
}

// TestStalledClients: a client that does not send its body, or does not read its answer, loses its request; one that does either
// slowly keeps it.
func TestStalledClients(t *testing.T) {
	w := start(t, nil)
	w.server.stall = 2 * time.Second
	w.handler = func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.Copy(rw, r.Body)
			return
		}
		if r.URL.Path == "/early" {
			rw.WriteHeader(http.StatusNoContent)
			return
		}
		if r.URL.Path == "/slow" {
			for range 4 {
				io.WriteString(rw, "part")
				rw.(http.Flusher).Flush()
				time.Sleep(w.server.stall / 8)
			}
			return
		}
		part := make([]byte, 64<<10)
		for {
			if _, err := rw.Write(part); err != nil {
				return
			}
		}
	}
	ended := func(name string) {
		testwait.Until(t, "the end of the request", func() error {
			w.server.mu.Lock()
			defer w.server.mu.Unlock()
			if w.server.open != 0 {
				return fmt.Errorf("%s: %d requests are open", name, w.server.open)
			}
			return nil
		})
	}
	if got := w.raw("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"); got != "" { // net/http takes the failed read for a client that has gone
		t.Errorf("without its body: %q", got)
	}
	w.raw("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
	for name, c := range w.clients() {
		if code, got := c.do(func(r *http.Request) { r.URL.Path = "/slow" }, nil); code != http.StatusOK || got != "partpartpartpart" {
			t.Errorf("%s: %d %q", name, code, got)
		}
		in, out := io.Pipe()
		go func() {
			for range 4 {
				io.WriteString(out, "part")
				time.Sleep(w.server.stall / 8)
			}
			out.Close()
		}()
		if code, got := c.do(func(r *http.Request) { r.URL.Path = "/body" }, in); code != http.StatusOK || got != "partpartpartpart" {
			t.Errorf("%s: %d %q", name, code, got)
		}
		res, err := c.http.Get(c.url + "/large")
		if err != nil {
			t.Fatal(err)
		}
		ended(name + " that does not read")
		res.Body.Close()
		in, out = io.Pipe()
		if name == "h2" { // HTTP/1 has written a part, and waits for the rest as above
			req, err := http.NewRequest(http.MethodPost, c.url+"/body", in)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := c.http.Do(req); err != nil || res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s without a body: %v, %v", name, res, err)
			} else {
				res.Body.Close()
			}
		}
		out.Close()
	}
}

// TestHostileRequests: requests that no target should get are refused here, and count as no failure of a target.
func TestHostileRequests(t *testing.T) {
	w := start(t, nil)
	var reached atomic.Bool // by a whole request
	w.handler = func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			reached.Store(true)
		}
	}
	for name, tt := range map[string]struct{ text, want string }{
		"two lengths":       {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"},
		"encodings":         {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "501"},
		"a malformed chunk": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", "400"},
		"two hosts":         {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		"a folded header":   {"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", "400"},
		"opaque":            {"GET foo:http://b/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "400"},
		"CONNECT":           {"CONNECT 10.0.3.4:80 HTTP/1.1\r\nHost: 10.0.3.4:80\r\nConnection: close\r\n\r\n", "405"},
		"a large header":    {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", "431"},
		"many headers":      {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: x\r\n", 1000) + "\r\n", "431"},
		"h2c":               {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
	} {
		got := w.raw(tt.text)
		if !strings.HasPrefix(got, "HTTP/1.1 "+tt.want) {
			t.Errorf("%s: got %.200q, want %s", name, got, tt.want)
		}
		if reached.Load() {
			t.Errorf("%s: it has reached the target", name)
		}
	}
	if n := w.failures(Target); n != 0 {
		t.Errorf("%d failures of the target", n)
	}
}

// TestSlowHeader: a client that sends its header slowly loses the connection, in each of its requests.
func TestSlowHeader(t *testing.T) {
	w := start(t, nil)
	for _, before := range []string{"", "GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n"} {
		c, err := net.Dial("tcp4", w.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in := bufio.NewReader(c)
		if before != "" {
			io.WriteString(c, before)
			if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", res, err)
			}
		}
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: ")
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					io.WriteString(c, "x")
				}
			}
		}()
		c.SetReadDeadline(time.Now().Add(testwait.Limit()))
		if _, err := io.Copy(io.Discard, in); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection is open")
		}
		close(stop)
	}
}

// TestLimits: a client has half of the requests, requests and connections with HTTP/2 need memory, and everything that was taken
// comes back.
func TestLimits(t *testing.T) {
	w := start(t, func(_ *world, c *Config) { c.Requests = 4 })
	inside, leave := make(chan bool), make(chan bool)
	w.handler = func(http.ResponseWriter, *http.Request) {
		inside <- true
		<-leave
	}
	var group sync.WaitGroup
	get := func() { group.Go(func() { w.clients()["http"].do(nil, nil) }) }
	get()
	get()
	<-inside
	<-inside
	for name, c := range w.clients() {
		if code, got := c.do(nil, nil); code != http.StatusServiceUnavailable || got != "this node has too many requests open: try again later\n" {
			t.Errorf("%s: a third request of one client: %d %q", name, code, got)
		}
	}
	if n := w.failures(LimitReached); n != 3 {
		t.Errorf("%d failures, want 3", n)
	}
	w.comeFrom(func(p *Peer) { p.Client = server })
	get()
	<-inside
	close(leave)
	group.Wait()

	w = start(t, func(_ *world, c *Config) { c.Memory = &duplextest.Budget{Size: requestMemory - 1} })
	if code, _ := w.clients()["http"].do(nil, nil); code != http.StatusServiceUnavailable {
		t.Errorf("a request without memory: %d", code)
	}
	if res, err := w.clients()["h2"].http.Get("https://" + w.secure); err == nil {
		t.Errorf("a connection with HTTP/2 without memory: %v", res)
	}
	testwait.Until(t, "two failures", func() error {
		if n := w.failures(LimitReached); n < 2 {
			return fmt.Errorf("%d failures", n)
		}
		return nil
	})
}

// TestShares: one client leaves as much memory as it takes to the others, and a connection to a target counts for the client that
// used it last.
func TestShares(t *testing.T) {
	inside, leave := make(chan bool), make(chan bool)
	w := start(t, func(_ *world, c *Config) { c.Memory = &duplextest.Budget{Size: 4 * requestMemory} })
	w.handler = func(http.ResponseWriter, *http.Request) {
		inside <- true
		<-leave
	}
	var group sync.WaitGroup
	get := func() { group.Go(func() { w.clients()["http"].do(nil, nil) }) }
	get()
	<-inside
	get()
	<-inside
	if code, _ := w.clients()["http"].do(nil, nil); code != http.StatusServiceUnavailable {
		t.Errorf("a client takes more than half of the memory: %d", code)
	}
	w.comeFrom(func(p *Peer) { p.Client = server })
	get()
	<-inside
	targets := func(a netip.Addr, want int) {
		t.Helper()
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		if got := w.server.client(a).targets; got != want {
			t.Errorf("%d connections to targets of %s, want %d", got, a, want)
		}
		w.server.forget(a)
	}
	targets(laptop, 2)
	targets(server, 1)
	close(leave)
	group.Wait()

	one, two := net.Pipe()
	defer two.Close()
	first, last := netip.MustParseAddr("100.64.0.3"), netip.MustParseAddr("100.64.0.4")
	if !w.server.openTarget(first) {
		t.Fatal("no room")
	}
	c := &targetConn{Conn: one, server: w.server, by: first}
	c.usedBy(last)
	targets(first, 0)
	targets(last, 1)
	c.Close()
	c.Close()
	c.usedBy(first)
	targets(first, 0)
	targets(last, 0)
}

// TestClientGoes: a request ends at the target when its client has gone, and is no failure of the target.
func TestClientGoes(t *testing.T) {
	w := start(t, nil)
	inside, gone := make(chan bool), make(chan bool)
	w.handler = func(_ http.ResponseWriter, r *http.Request) {
		inside <- true
		<-r.Context().Done()
		gone <- true
	}
	for name, c := range w.clients() {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		go c.http.Do(req) //nolint:bodyclose // it has no answer
		<-inside
		cancel()
		<-gone
		if n := w.failures(Target); n != 0 {
			t.Errorf("%s: %d failures", name, n)
		}
	}
}

// TestDrain: a drain closes idle connections, lets requests finish, and closes their connections and new ones after a request.
func TestDrain(t *testing.T) {
	for _, name := range []string{"http", "https", "h2"} {
		w := start(t, nil)
		c := w.clients()[name]
		inside, leave := make(chan bool), make(chan bool)
		w.handler = func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				inside <- true
				<-leave
			}
			io.WriteString(rw, "answer")
		}
		done := make(chan string)
		go func() {
			res, err := c.http.Get(c.url + "/slow")
			if err != nil {
				done <- err.Error()
				return
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			done <- fmt.Sprint(string(got), res.Close, err)
		}()
		<-inside
		idle, err := net.Dial("tcp4", w.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		io.WriteString(idle, "GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")
		in := bufio.NewReader(idle)
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusOK || res.Close {
			t.Fatalf("%v, %v", res, err)
		} else if _, err := io.ReadAll(res.Body); err != nil {
			t.Fatal(err)
		}
		w.server.Drain(t.Context())
		if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
			t.Errorf("%s: an idle connection: %q, %v", name, rest, err)
		}
		if n := w.server.Awaited(); n != 1 {
			t.Errorf("%s: the drain waits for %d requests, want 1", name, n)
		}
		if got := w.raw("GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n"); !strings.Contains(got, "\r\nConnection: close\r\n") || !strings.HasSuffix(got, "answer") {
			t.Errorf("%s: a new connection: %q", name, got)
		}
		leave <- true
		if got, want := <-done, fmt.Sprint("answer", name != "h2", nil); got != want {
			t.Errorf("%s: the open request: %q, want %q", name, got, want)
		}
		if name == "h2" {
			if code, got := c.do(nil, nil); code != http.StatusOK || got != "answer" { // the client has understood GOAWAY, and connects again
				t.Errorf("after the drain began: %d %q", code, got)
			}
		}
	}
}

// FuzzHeaders: no header of a client looks like one of the proxy, whatever its name.
func FuzzHeaders(f *testing.F) {
	for _, name := range []string{"Tailscale-User-Login", "tailscale_user_login", "X_Forwarded_For", "forwarded", "Tailscale!User", "Kept"} {
		f.Add(name, "value")
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		h := http.Header{name: {value}}
		dropReserved(h)
		cgi := bytes.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				return c
			}
			return '_'
		}, bytes.ToLower([]byte(name)))
		reserved := bytes.HasPrefix(cgi, []byte("tailscale_")) || bytes.HasPrefix(cgi, []byte("x_forwarded_")) || string(cgi) == "forwarded"
		if ascii := !strings.ContainsFunc(name, func(c rune) bool { return c > 127 }); ascii && reserved != (len(h) == 0) {
			t.Errorf("%q: reserved %v, %d left", name, reserved, len(h))
		}
	})
}
