package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const patience = 5 * time.Second

var someClient = netip.MustParseAddrPort("100.64.0.2:40000")

func newForwarder(t *testing.T, edit func(*Config)) (*Forwarder, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	cfg := Config{Registerer: reg, Logger: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&cfg)
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, reg
}

// tcpPair is a connection of two real TCP ends: what the stack hands over, and
// the client's own.
func tcpPair(t *testing.T) (stack, client *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{c, s} {
		conn.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { conn.Close() })
	}
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

func serveTCP(t *testing.T, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go handle(c.(*net.TCPConn))
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestTCPKeepsHalfClose(t *testing.T) {
	f, reg := newForwarder(t, nil)
	// The server answers only once it has seen the end of the request.
	target := serveTCP(t, func(c *net.TCPConn) {
		defer c.Close()
		request, _ := io.ReadAll(c)
		io.WriteString(c, strings.ToUpper(string(request)))
	})
	serve, ok := f.TCP(someClient, target)
	if !ok {
		t.Fatal("connection was refused")
	}
	stack, client := tcpPair(t)
	served := make(chan struct{})
	go func() { serve(stack); close(served) }()

	io.WriteString(client, "half-close")
	client.CloseWrite()
	answer, err := io.ReadAll(client)
	if err != nil || string(answer) != "HALF-CLOSE" {
		t.Fatalf("answer %q, %v", answer, err)
	}
	await(t, served, "the flow to end")
	if tcp, udp := f.Active(); tcp+udp != 0 {
		t.Errorf("%d TCP, %d UDP flows left", tcp, udp)
	}
	expect := `
# HELP router_forwarded_bytes_total Payload bytes forwarded in userspace, by direction.
# TYPE router_forwarded_bytes_total counter
router_forwarded_bytes_total{direction="to_tailnet",protocol="icmp"} 0
router_forwarded_bytes_total{direction="to_tailnet",protocol="tcp"} 10
router_forwarded_bytes_total{direction="to_tailnet",protocol="udp"} 0
router_forwarded_bytes_total{direction="to_vpc",protocol="icmp"} 0
router_forwarded_bytes_total{direction="to_vpc",protocol="tcp"} 10
router_forwarded_bytes_total{direction="to_vpc",protocol="udp"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(expect), "router_forwarded_bytes_total"); err != nil {
		t.Error(err)
	}
}

func TestTCPCarriesBulkBothWaysAtOnce(t *testing.T) {
	f, _ := newForwarder(t, nil)
	target := serveTCP(t, func(c *net.TCPConn) {
		io.Copy(c, c)
		c.CloseWrite()
	})
	serve, ok := f.TCP(someClient, target)
	if !ok {
		t.Fatal("connection was refused")
	}
	stack, client := tcpPair(t)
	go serve(stack)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	go func() { client.Write(sent); client.CloseWrite() }()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes of %d back, %v", len(got), len(sent), err)
	}
}

func TestTCPPassesResetOn(t *testing.T) {
	f, _ := newForwarder(t, nil)
	reset := make(chan error, 1)
	target := serveTCP(t, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		reset <- err
	})
	serve, ok := f.TCP(someClient, target)
	if !ok {
		t.Fatal("connection was refused")
	}
	stack, client := tcpPair(t)
	go serve(stack)
	client.SetLinger(0)
	client.Close()
	select {
	case err := <-reset:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("server saw %v, want a reset", err)
		}
	case <-time.After(patience):
		t.Error("server never saw the client's reset")
	}
}

func TestTCPFailuresAreRefusedAndCounted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unusedPort := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
	}
	fail := func(errno syscall.Errno) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}
		}
	}
	for _, tc := range []struct {
		reason string
		dial   func(context.Context, string, string) (net.Conn, error)
	}{
		{refused, nil},
		{timedOut, hang},
		{unreachable, fail(syscall.EHOSTUNREACH)},
		{unreachable, fail(syscall.ENETUNREACH)},
		{exhausted, fail(syscall.EMFILE)},
		{other, fail(syscall.EPERM)},
	} {
		f, _ := newForwarder(t, func(c *Config) { c.Dial, c.DialTimeout = tc.dial, 20*time.Millisecond })
		if _, ok := f.TCP(someClient, unusedPort); ok {
			t.Errorf("%s: the client's connection was accepted", tc.reason)
		}
		for _, reason := range reasons {
			want := 0.
			if reason == tc.reason {
				want = 1
			}
			if got := testutil.ToFloat64(f.metrics.failed["tcp"][reason]); got != want {
				t.Errorf("%s: counted %v under %s, want %v", tc.reason, got, reason, want)
			}
		}
	}
}

func TestCloseEndsFlows(t *testing.T) {
	f, _ := newForwarder(t, nil)
	target := serveTCP(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	serve, ok := f.TCP(someClient, target)
	if !ok {
		t.Fatal("connection was refused")
	}
	stack, client := tcpPair(t)
	served := make(chan struct{})
	go func() { serve(stack); close(served) }()
	waitFor(t, "the flow to be open", func() bool { tcp, _ := f.Active(); return tcp == 1 })
	if cut := f.Close(); cut != 1 {
		t.Errorf("Close cut %d flows, want 1", cut)
	}
	await(t, served, "the flow to end")
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("client read: %v, want the connection to have ended", err)
	}
	if _, ok := f.TCP(someClient, target); ok {
		t.Error("a closed forwarder accepted a connection")
	}
}

func TestUDPAnswersOnlyFromTarget(t *testing.T) {
	f, _ := newForwarder(t, nil)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	serve, ok := f.UDP(someClient, server.LocalAddr().(*net.UDPAddr).AddrPort())
	if !ok {
		t.Fatal("flow was refused")
	}
	stack, client := net.Pipe() // keeps message boundaries as long as reads are large enough
	defer client.Close()
	client.SetDeadline(time.Now().Add(patience))
	go serve(stack)

	buf := make([]byte, 1500)
	client.Write([]byte("ping"))
	server.SetDeadline(time.Now().Add(patience))
	n, from, err := server.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("server read %q, %v", buf[:n], err)
	}
	stranger, err := net.DialUDP("udp", nil, from.(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	stranger.Write([]byte("from a stranger"))
	server.WriteTo([]byte("pong"), from)
	if n, err = client.Read(buf); err != nil || string(buf[:n]) != "pong" {
		t.Errorf("client read %q, %v; want the target's answer alone", buf[:n], err)
	}
}

func TestUDPFlowEndsWhenIdle(t *testing.T) {
	f, _ := newForwarder(t, nil)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	backend, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	stack, client := net.Pipe()
	defer client.Close()
	served := make(chan struct{})
	go func() { f.relayDatagrams(stack, backend, 30*time.Millisecond); close(served) }()
	await(t, served, "the idle flow to end")
}

func TestEchoBringsTheTargetsData(t *testing.T) {
	f, _ := newForwarder(t, nil)
	if f.pinger.v4 == nil {
		t.Skip("no ICMP socket here: ", f.pinger.why)
	}
	for _, target := range []string{"127.0.0.1", "::1"} {
		if target == "::1" && f.pinger.v6 == nil {
			continue
		}
		got := make(chan string, 4)
		f.Echo(someClient.Addr(), netip.MustParseAddr(target), []byte("data for "+target), func(data []byte) { got <- string(data) })
		select {
		case s := <-got:
			if s != "data for "+target {
				t.Errorf("%s answered %q", target, s)
			}
		case <-time.After(patience):
			t.Errorf("%s did not answer", target)
		}
	}
	if len(f.pinger.pending) != 0 {
		t.Errorf("%d echoes still pending", len(f.pinger.pending))
	}
}

func TestDeniedIsCounted(t *testing.T) {
	bad := netip.MustParseAddrPort("169.254.170.2:80")
	f, reg := newForwarder(t, func(c *Config) { c.Deny = func(a netip.AddrPort) bool { return a == bad } })
	if !f.Denied(bad) || f.Denied(someClient) {
		t.Error("Denied does not follow Deny")
	}
	if got := testutil.ToFloat64(f.metrics.denied); got != 1 {
		t.Errorf("counted %v, want 1", got)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics lint: %v %v", problems, err)
	}
}

func await(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
	}
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
