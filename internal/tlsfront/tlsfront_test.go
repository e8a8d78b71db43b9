package tlsfront

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/proxyproto"
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

func start(t *testing.T, change func(*Config), dial func(context.Context) (net.Conn, error)) *world {
	t.Helper()
	w := &world{t: t, got: map[Reason]int{}}
	cert := certificate(t)
	cfg := Config{
		Memory:      &budget{room: 1 << 30},
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
		ln := listen(t)
		go echo(ln)
		dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		}
	}
	w.server = New(cfg)
	addr, err := w.server.Open(dial)
	if err != nil {
		t.Fatal(err)
	}
	w.addr = addr.String()
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

// budget is a [Memory].
type budget struct {
	mu   sync.Mutex
	room int64
}

func (b *budget) Reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.room < n {
		return false
	}
	b.room -= n
	return true
}

func (b *budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.room += n
}

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func echo(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
			io.WriteString(c, "end")
		}()
	}
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

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"edge.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (w *world) dial() *tls.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp4", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the e2e test verifies
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

// TestHeader: the header of the data path goes to a target that wants it, in front of the client's bytes, and to no other.
func TestHeader(t *testing.T) {
	header := string(proxyproto.Header{Node: "laptop"}.Bytes())
	for _, wants := range []bool{true, false} {
		w := start(t, func(c *Config) { c.Headers, c.WantsHeader = true, func(netip.AddrPort) bool { return wants } }, nil)
		raw, err := net.Dial("tcp4", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(raw, header)
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the e2e test verifies
		io.WriteString(c, "hello")
		c.CloseWrite()
		want := "hello"
		if wants {
			want = header + want
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != want+"end" {
			t.Errorf("wants %v: got %q, %v", wants, got, err)
		}
		raw.Close()
	}
}

// TestForgedHeader: without Headers, a client's own PROXY header is not TLS.
func TestForgedHeader(t *testing.T) {
	w := start(t, nil, nil)
	c, err := net.Dial("tcp4", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write(proxyproto.Header{Node: "forged"}.Bytes())
	io.Copy(io.Discard, c)
	testwait.Until(t, "a failure", w.failed(Handshake))
}

func TestFailures(t *testing.T) {
	none := errors.New("no certificate yet")
	w := start(t, func(c *Config) { c.Certificate = func() (*tls.Certificate, error) { return nil, none } }, nil)
	if err := w.dial().Handshake(); err == nil {
		t.Error("a handshake without a certificate")
	}
	testwait.Until(t, "a failure", w.failed(Certificate))

	w = start(t, nil, func(context.Context) (net.Conn, error) { return nil, errors.New("refused") })
	if _, err := io.ReadAll(w.dial()); err == nil {
		t.Error("the client is not told that there is no target")
	}
	testwait.Until(t, "a failure", w.failed(Target))

	w = start(t, func(c *Config) { c.Conns = 1 }, nil)
	if err := w.dial().Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := w.dial().Handshake(); err == nil {
		t.Error("more connections than Conns")
	}
	testwait.Until(t, "a failure", w.failed(LimitReached))
}

// TestMemory: a connection without memory for its buffers is refused, and one that has ended returns its memory.
func TestMemory(t *testing.T) {
	memory := &budget{room: ConnMemory}
	w := start(t, func(c *Config) { c.Memory = memory }, nil)
	first := w.dial()
	if err := first.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := w.dial().Handshake(); err == nil {
		t.Error("a second connection has buffers outside of the budget")
	}
	testwait.Until(t, "a failure", w.failed(LimitReached))
	first.CloseWrite()
	io.Copy(io.Discard, first)
	first.Close()
	testwait.Until(t, "the memory", func() error {
		if err := w.dial().Handshake(); err != nil {
			return err
		}
		return nil
	})
}

// TestReset: a target that resets is not an end of the stream for the client.
func TestReset(t *testing.T) {
	ln := listen(t)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "part")
		io.ReadFull(c, make([]byte, 1))
		reset(c.(*net.TCPConn))
	}()
	w := start(t, nil, func(ctx context.Context) (net.Conn, error) {
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
