package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/proxyproto"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tlsfront"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestPortWithTLS: flows to a port with TLS or HTTP go by way of the front, and the rules decide about the target.
func TestPortWithTLS(t *testing.T) {
	own, front, target := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("10.0.3.4:80")
	allowed := true
	s := newServed([]config.Serve{{Port: 443, Target: "10.0.3.4:80", Kind: config.ServeTLS}, {Port: 8080, Target: "10.0.3.4:80", Kind: config.ServeHTTP}, {Port: 80, Target: "10.0.3.4:80"}},
		func(a netip.Addr) bool { return a == own },
		func(netip.AddrPort) error {
			if allowed {
				return nil
			}
			return errors.New("denied")
		}, slog.New(slog.DiscardHandler))
	s.front = front
	at := netip.AddrPortFrom(own, 443)
	if to, ok := s.lookUp(forward.TCP, at); !ok || to.IsValid() {
		t.Errorf("without an address of the target: %v, %v", to, ok)
	}
	for _, p := range s.ports {
		p.addr.Store(&target)
	}
	for _, port := range []uint16{443, 8080, 80} {
		if to, ok := s.lookUp(forward.TCP, netip.AddrPortFrom(own, port)); !ok || to != target {
			t.Errorf("port %d: got %v, %v, want %v", port, to, ok, target)
		}
	}
	for dst, want := range map[netip.AddrPort]netip.AddrPort{
		at: front, netip.AddrPortFrom(own, 8080): front, netip.AddrPortFrom(own, 80): {}, netip.MustParseAddrPort("100.64.0.2:443"): {}, target: {},
	} {
		if got := s.frontOf(forward.TCP, dst); got != want {
			t.Errorf("the front of %v is %v, want %v", dst, got, want)
		}
	}
	former := target
	moved := netip.MustParseAddrPort("10.0.3.5:80")
	for _, tt := range []struct {
		port           uint16 // that gets the new address
		former, latter bool
	}{{443, true, false}, {8080, false, true}} { // only the target of HTTP matters
		s.ports[tt.port].addr.Store(&moved)
		if a, b := s.current(former), s.current(moved); a != tt.former || b != tt.latter {
			t.Errorf("after port %d moved, %v is a target: %v, and %v: %v", tt.port, former, a, moved, b)
		}
	}
	if got := s.frontOf(forward.UDP, at); got.IsValid() {
		t.Errorf("UDP has the front %v", got)
	}
	allowed = false
	if to, ok := s.lookUp(forward.TCP, at); !ok || to.IsValid() {
		t.Errorf("a denied target: %v, %v", to, ok)
	}
	if _, err := s.dial(t.Context(), target); err == nil {
		t.Error("the front reaches a denied target")
	}
}

// TestOwnsName: a request with HTTP has a user only if its host is this node.
func TestOwnsName(t *testing.T) {
	s := routertest.New(t)
	before, err := New(s.Load(t), Options{}, slog.New(slog.DiscardHandler), eventlog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"", ".", "edge-router", "100.64.0.1"} {
		if before.ownsName(host) {
			t.Errorf("a node that has not joined owns %q", host)
		}
	}
	r := start(t, routertest.New(t), Options{})
	now, _ := r.node.Status()
	if len(now.IPs) != 2 || now.Name == "" {
		t.Fatalf("the node is %+v", now)
	}
	for host, want := range map[string]bool{
		now.Name: true, now.IPs[0].String(): true, now.IPs[1].String(): true, "": false, "evil.test": false, "127.0.0.1": false,
		now.IPs[0].Next().String(): false, now.IPs[1].Next().String(): false, "[" + now.IPs[1].String() + "]": false, // hosts come without brackets
		now.IPs[1].String() + "%eth0": false,
	} {
		if got := r.ownsName(host); got != want {
			t.Errorf("%q: %t, want %t", host, got, want)
		}
	}
}

func TestIsName(t *testing.T) {
	for _, c := range []struct {
		host, full, name string
		want             bool
	}{
		{"edge.tail1.ts.net", "edge.tail1.ts.net.", "edge", true},
		{"edge.tail1.ts.net", "Edge.tail1.ts.net", "Edge", true},
		{"edge", "edge.tail1.ts.net.", "edge", true},
		{"edge", "edge", "edge", true}, // without MagicDNS
		{"edge.", "edge.tail1.ts.net.", "edge", false},
		{"edge.evil.test", "edge.tail1.ts.net.", "edge", false},
		{"a.edge.tail1.ts.net", "edge.tail1.ts.net.", "edge", false},
		{"edge.tail1.ts.net.evil.test", "edge.tail1.ts.net.", "edge", false},
		{"other.tail1.ts.net", "edge.tail1.ts.net.", "edge", false},
		{"localhost", "edge.tail1.ts.net.", "edge", false},
		{"", "edge.tail1.ts.net.", "edge", false},
		{"", "", "", false}, // not joined
		{".", "", "", false},
		{"edge", "", "", false},
	} {
		if got := isName(c.host, c.full, c.name); got != c.want {
			t.Errorf("%q is %q (%q): %t, want %t", c.host, c.full, c.name, got, c.want)
		}
	}
}

// TestPrefaceOfServedPorts: the front gets the target first, with a PROXY header for ports without HTTP. What a flow has dialed
// decides, not whose address its destination is now: the node of this test has none.
func TestPrefaceOfServedPorts(t *testing.T) {
	s := routertest.New(t)
	s.Env["ROUTER_SERVE"] = "443/tls=10.0.3.4:80,444/https=10.0.3.5:80,80/http=10.0.3.5:80,25=10.0.3.4:80,26=10.0.3.6:80"
	s.Env["ROUTER_PROXY_PROTOCOL"] = "10.0.3.4:80"
	r, err := New(s.Load(t), Options{}, slog.New(slog.DiscardHandler), eventlog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client, own := netip.MustParseAddrPort("100.64.0.7:50000"), netip.MustParseAddr("100.64.0.1")
	flow := func(kind tlsfront.Kind, target netip.AddrPort, header []byte) []byte {
		return tlsfront.Flow{Kind: kind, Client: client.Addr(), Source: client.Addr(), Target: target, Header: header}.Bytes()
	}
	withHeader, without, plain := netip.MustParseAddrPort("10.0.3.4:80"), netip.MustParseAddrPort("10.0.3.5:80"), netip.MustParseAddrPort("10.0.3.6:80")
	for _, c := range []struct {
		name   string
		port   uint16
		target netip.AddrPort
		front  bool
		want   func(header []byte) []byte
	}{
		{"tls", 443, withHeader, true, func(header []byte) []byte { return flow(tlsfront.TLS, withHeader, header) }},
		{"https", 444, without, true, func([]byte) []byte { return flow(tlsfront.HTTPS, without, nil) }},
		{"http", 80, without, true, func([]byte) []byte { return flow(tlsfront.HTTP, without, nil) }},
		{"PROXY", 25, withHeader, false, func(header []byte) []byte { return header }},
		{"plain", 26, plain, false, func([]byte) []byte { return nil }},
		{"a route to a target of the header", 80, withHeader, false, func(header []byte) []byte { return header }},
		{"a front, and a port without one", 26, plain, true, func([]byte) []byte { return nil }},
		{"a front, and a port that is not served", 27, plain, true, func([]byte) []byte { return nil }},
	} {
		dst := netip.AddrPortFrom(own, c.port)
		header := proxyproto.Header{Client: client, Target: dst}.Bytes()
		if got, want := r.preface(client, dst, c.target, c.front), c.want(header); !bytes.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", c.name, got, want)
		}
	}
}

// TestCertificateIsFollowed: no request before the node is a member, growing pauses after failures, and a certificate that could not be
// renewed stays in use.
func TestCertificateIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		var running atomic.Bool
		var requests atomic.Int32
		type answer struct {
			certificate *tls.Certificate
			err         error
		}
		var next atomic.Pointer[answer]
		failure := errors.New("the authority is out of order")
		next.Store(&answer{nil, failure})
		var name atomic.Value
		name.Store("edge.test")
		p := &tlsPorts{
			name:    func() string { return name.Load().(string) },
			running: running.Load, log: slog.New(slog.DiscardHandler),
			expiry: prometheus.NewGauge(prometheus.GaugeOpts{Name: "expiry", Help: "End of the certificate."}),
			request: func(context.Context, string) (*tls.Certificate, error) {
				requests.Add(1)
				a := next.Load()
				return a.certificate, a.err
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.follow(ctx)
		}()
		pass(time.Minute)
		if n := requests.Load(); n != 0 {
			t.Errorf("%d requests before the node is a member", n)
		}
		running.Store(true)
		pass(5 * time.Hour)
		if n := requests.Load(); n < 8 || n > 12 { // after 0, 1, 3, 7, 15, 31, 63, 123 … minutes
			t.Errorf("%d requests in five hours of failures", n)
		}
		if _, err := p.current(); err == nil {
			t.Error("a certificate out of nowhere")
		}
		end := time.Now().Add(24 * time.Hour)
		old := &tls.Certificate{Leaf: &x509.Certificate{NotAfter: end, DNSNames: []string{"edge.test"}}}
		next.Store(&answer{old, failure})
		pass(2 * time.Hour)
		if c, err := p.current(); err != nil || c != old {
			t.Errorf("after a failed renewal: %v, %v", c, err)
		}
		if got := testutil.ToFloat64(p.expiry); got != float64(end.Unix()) {
			t.Errorf("expiry %v, want %v", got, end.Unix())
		}
		next.Store(&answer{old, nil})
		requests.Store(0)
		pass(4 * time.Hour)
		if n := requests.Load(); n < 2 || n > 4 {
			t.Errorf("%d looks in four hours", n)
		}
		next.Store(&answer{nil, failure})
		name.Store("renamed.test")
		pass(2 * time.Minute)
		if _, err := p.current(); err == nil || testutil.ToFloat64(p.expiry) != 0 {
			t.Error("the certificate of a former name is in use")
		}
		cancel()
		<-done
	})
}
