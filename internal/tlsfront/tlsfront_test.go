package tlsfront

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/duplextest"
	"subnetrouter/internal/testwait"
)

// world is a server with one front, whose target echoes until the client ends, and then says "end".
type world struct {
	t      *testing.T
	server *Server
	addr   string
	mu     sync.Mutex
	got    map[Reason]int
}

func start(t *testing.T, change func(*Config), dial func(context.Context, netip.AddrPort) (net.Conn, error)) *world {
	t.Helper()
	w := &world{t: t, got: map[Reason]int{}}
	cert := duplextest.Certificate(t)
	cfg := Config{
		Memory:      &duplextest.Budget{Size: 1 << 30},
		Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Conns: 8,
		Failed: func(r Reason, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.got[r]++
		},
	}
	if change != nil {
		change(&cfg)
	}
	if dial == nil {
		at := duplextest.Echo(t)
		dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", at)
		}
	}
	cfg.Dial = dial
	var err error
	if w.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.server.silence = time.Second
	w.addr = w.server.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := w.server.Connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return w
}

func (w *world) failed(r Reason) func() error {
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.got[r] == 0 {
			return fmt.Errorf("no failure of the reason %s: %v", r, w.got)
		}
		return nil
	}
}

var laptop, phone = netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("fd7a:115c:a1e0::3")

var theTarget = netip.MustParseAddrPort("10.0.3.4:80")

// dial connects as the laptop.
func (w *world) dial() *tls.Conn { return w.connect(Flow{Client: laptop, Target: theTarget}) }

// connect connects as the data path does for a flow.
func (w *world) connect(f Flow) *tls.Conn {
	w.t.Helper()
	c, err := w.tryConnect(f)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// handshake connects and shakes hands. A front without room may reset the connection at once.
func (w *world) handshake(client netip.Addr) error {
	c, err := w.tryConnect(Flow{Client: client, Target: theTarget})
	if err == nil {
		err = c.Handshake()
	}
	return err
}

func (w *world) tryConnect(f Flow) (*tls.Conn, error) {
	c, err := net.Dial("tcp4", w.addr)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { c.Close() })
	c.Write(f.Bytes())
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true}), nil //nolint:gosec // the e2e test verifies
}

func TestRelay(t *testing.T) {
	w := start(t, nil, nil)
	c := w.dial()
	sent := strings.Repeat("0123456789abcdef", 100_000)
	go func() {
		io.WriteString(c, sent)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != sent+"end" {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// TestFlow: the front dials the target that the data path names, which gets its header in front of the client's bytes.
func TestFlow(t *testing.T) {
	at := duplextest.Echo(t)
	for _, f := range []Flow{
		{Client: laptop, Target: theTarget, Header: []byte("header:")},
		{Client: phone, Target: netip.MustParseAddrPort("[fd12::4]:443")},
		{Client: phone, Target: theTarget, Header: []byte(strings.Repeat("h", maxFlow-fixedFlow))},
	} {
		dialed := make(chan netip.AddrPort, 1)
		w := start(t, nil, func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			dialed <- to
			return new(net.Dialer).DialContext(ctx, "tcp", at)
		})
		c := w.connect(f)
		io.WriteString(c, "hello")
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != string(f.Header)+"helloend" {
			t.Errorf("%v: got %q, %v", f, got, err)
		}
		if to := <-dialed; to != f.Target {
			t.Errorf("dialed %v, want %v", to, f.Target)
		}
	}
}

// TestStrangers: bytes that are no flow of the data path reach no target.
func TestStrangers(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "a part": string(Flow{Client: laptop, Target: theTarget}.Bytes()[:20]), "TLS": "\x16\x03\x01\x02\x00" + strings.Repeat("x", 600),
		"too long": "\xff\xff" + strings.Repeat("x", 70000), "too short": "\x00\x01xxxx",
		"an unknown kind": "\x00\x33\x03" + strings.Repeat("x", 50),
		"a PROXY header":  "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + strings.Repeat("x", 12),
	} {
		w := start(t, nil, func(context.Context, netip.AddrPort) (net.Conn, error) {
			t.Errorf("%s: the target was dialed", name)
			return nil, errors.New("no")
		})
		c, err := net.Dial("tcp4", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
		testwait.Until(t, name, w.failed(Handshake))
	}
}

// FuzzFlow: each accepted flow is encoded as it was read.
func FuzzFlow(f *testing.F) {
	f.Add(Flow{Client: laptop, Target: theTarget, Header: []byte("x")}.Bytes())
	f.Add(Flow{Client: phone, Target: netip.MustParseAddrPort("[fd12::4]:443")}.Bytes())
	f.Add(Flow{Kind: HTTPS, Client: phone, Source: laptop, Target: theTarget}.Bytes())
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readFlow(bytes.NewReader(text))
		if err != nil {
			return
		}
		if again, err := readFlow(bytes.NewReader(got.Bytes())); err != nil || again.Kind != got.Kind || again.Client != got.Client || again.Source != got.Source || again.Target != got.Target || !bytes.Equal(again.Header, got.Header) {
			t.Errorf("%v: %v, %v", got, again, err)
		}
	})
}

// TestShares: one client has half of the connections at most.
func TestShares(t *testing.T) {
	w := start(t, func(c *Config) { c.Conns = 4 }, nil)
	for i, want := range []bool{true, true, false} {
		if err := w.handshake(laptop); (err == nil) != want {
			t.Errorf("connection %d of the laptop: %v", i, err)
		}
	}
	testwait.Until(t, "a failure", w.failed(LimitReached))
	if err := w.handshake(phone); err != nil {
		t.Errorf("the laptop keeps the phone out: %v", err)
	}
}

// TestSilenceAfterTheTarget: a client that does not close its connection once the target has ended does not keep it.
func TestSilenceAfterTheTarget(t *testing.T) {
	ln := duplextest.Listen(t)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			io.WriteString(c, "bye")
			c.Close()
		}
	}()
	w := start(t, nil, func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	})
	c := w.dial()
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
	testwait.Until(t, "the end of the connection", func() error {
		if n := w.server.Connections(); n != 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
}

// TestHTTP: connections with HTTP are handed over, with TLS terminated if that is their kind, and count until they have ended.
func TestHTTP(t *testing.T) {
	over := make(chan Flow)
	w := start(t, func(c *Config) {
		c.HTTP = func(conn net.Conn, f Flow) {
			over <- f
			io.Copy(conn, conn)
		}
	}, nil)
	for _, f := range []Flow{{Kind: HTTP, Client: laptop, Source: phone, Target: theTarget}, {Kind: HTTPS, Client: laptop, Source: phone, Target: theTarget}} {
		c, err := net.Dial("tcp4", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client, hello := c, []byte("hello")
		if f.Kind == HTTP {
			c.Write(append(f.Bytes(), hello...)) // in one segment
		} else {
			c.Write(f.Bytes())
			secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // the e2e test verifies
			if err := secure.Handshake(); err != nil || secure.ConnectionState().NegotiatedProtocol != "h2" {
				t.Fatalf("%v, %+v", err, secure.ConnectionState())
			}
			secure.Write(hello)
			client = secure
		}
		if got := <-over; got.Kind != f.Kind || got.Source != phone || got.Target != theTarget {
			t.Errorf("got %+v, want %+v", got, f)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(client, got); err != nil || string(got) != "hello" {
			t.Errorf("kind %d: got %q, %v", f.Kind, got, err)
		}
		if n := w.server.Connections(); n != 1 {
			t.Errorf("kind %d: %d connections, want 1", f.Kind, n)
		}
		c.Close()
		testwait.Until(t, "the end of the connection", func() error {
			if n := w.server.Connections(); n != 0 {
				return fmt.Errorf("%d connections are open", n)
			}
			return nil
		})
	}
}

func TestFailures(t *testing.T) {
	none := errors.New("no certificate yet")
	w := start(t, func(c *Config) { c.Certificate = func() (*tls.Certificate, error) { return nil, none } }, nil)
	if err := w.handshake(laptop); err == nil {
		t.Error("a handshake without a certificate")
	}
	testwait.Until(t, "a failure", w.failed(Certificate))

	w = start(t, nil, func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("refused") })
	if _, err := io.ReadAll(w.dial()); err == nil {
		t.Error("the client is not told that there is no target")
	}
	testwait.Until(t, "a failure", w.failed(Target))

	w = start(t, func(c *Config) { c.Conns = 1 }, nil)
	if err := w.handshake(laptop); err != nil {
		t.Fatal(err)
	}
	if err := w.handshake(laptop); err == nil {
		t.Error("more connections than Conns")
	}
	testwait.Until(t, "a failure", w.failed(LimitReached))
}

// TestMemory: a connection without memory for its buffers is refused, and one that has ended returns its memory.
func TestMemory(t *testing.T) {
	memory := &duplextest.Budget{Size: ConnMemory}
	w := start(t, func(c *Config) { c.Memory = memory }, nil)
	first := w.dial()
	if err := first.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := w.handshake(laptop); err == nil {
		t.Error("a second connection has buffers outside of the budget")
	}
	testwait.Until(t, "a failure", w.failed(LimitReached))
	first.CloseWrite()
	io.Copy(io.Discard, first)
	first.Close()
	testwait.Until(t, "the memory", func() error {
		if err := w.handshake(laptop); err != nil {
			return err
		}
		return nil
	})
}

// TestReset: a target that resets is not an end of the stream for the client.
func TestReset(t *testing.T) {
	ln := duplextest.Listen(t)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "part")
		io.ReadFull(c, make([]byte, 1))
		reset(c.(*net.TCPConn))
	}()
	w := start(t, nil, func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	})
	c := w.dial()
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "x")
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("got %q and an end", got)
	}
}
