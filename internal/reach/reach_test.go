package reach

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// closedPort returns an address of loopback at which nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// do returns the error of a real request to target, through proxy unless it is "".
func do(t *testing.T, target, proxy string, roots *x509.CertPool, now func() time.Time) error {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Time: now}}
	defer transport.CloseIdleConnections()
	if proxy != "" {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("%s through %q answered", target, proxy)
	}
	return err
}

// TestExplain: each part of the network is named, with its own fix.
func TestExplain(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	forbids := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer forbids.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	proxy := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	closed := closedPort(t)

	for name, c := range map[string]struct {
		err        error
		proxy      string
		cause, fix string
		clock      bool
	}{
		"DNS": {err: &url.Error{Op: "Get", URL: "https://c", Err: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "c.example", Server: "10.0.0.2:53"}}},
			cause: "DNS: looking up c.example: no such host (resolver 10.0.0.2:53)", fix: "enableDnsSupport"},
		"DNS without a network": {err: &net.DNSError{Err: "dial udp 10.0.0.2:53: connect: network is unreachable", Name: "c.example"},
			cause: "no route: looking up c.example: dial udp 10.0.0.2:53: connect: network is unreachable", fix: "assign a public address"},
		"route": {err: &net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}, Err: syscall.ENETUNREACH},
			cause: "no route: 192.0.2.1:443: network is unreachable", fix: "assign a public address"},
		"silence":           {err: do(t, "http://"+silent.Addr().String(), "", nil, nil), cause: "no answer in time", fix: "outbound TCP 443"},
		"refused":           {err: do(t, "http://"+closed, "", nil, nil), cause: closed + ": connect: connection refused", fix: "outbound TCP 443"},
		"unknown authority": {err: do(t, secure.URL, "", nil, nil), cause: "TLS: ", fix: "SSL_CERT_FILE"},
		"no TLS":            {err: do(t, strings.Replace(plain.URL, "http:", "https:", 1), "", nil, nil), cause: "server gave HTTP response", fix: "443"},
		"clock":             {err: do(t, secure.URL, "", roots, func() time.Time { return time.Now().AddDate(100, 0, 0) }), cause: "TLS: ", fix: "set the clock", clock: true},
		"proxy is down": {err: do(t, "https://control.example", closed, nil, nil), proxy: closed,
			cause: "the proxy " + closed + ": " + closed + ": connect: connection refused", fix: "HTTPS_PROXY"},
		"proxy refuses": {err: do(t, "https://control.example", proxy(forbids), nil, nil), proxy: proxy(forbids),
			cause: "the proxy " + proxy(forbids) + " refused: Forbidden", fix: "NO_PROXY"},
		"proxy is silent": {err: do(t, "https://control.example", silent.Addr().String(), nil, nil), proxy: silent.Addr().String(),
			cause: "through the proxy", fix: "HTTPS_PROXY"},
		"other": {err: errors.New("strange"), cause: "strange", fix: "443"},
	} {
		got := Explain(c.err, c.proxy)
		if !strings.Contains(got.Cause, c.cause) || !strings.Contains(got.Fix, c.fix) || got.Clock != c.clock {
			t.Errorf("%s: %v is explained as %+v, want the cause %q and the fix %q", name, c.err, got, c.cause, c.fix)
		}
		if strings.Contains(got.Cause, "\n") || got.Cause == "" {
			t.Errorf("%s: the cause %q is not one line", name, got.Cause)
		}
	}
}

// TestGet: any status is an answer; the request itself is explained otherwise.
func TestGet(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if f, err := Get(t.Context(), server.URL); f != nil || err != nil {
		t.Errorf("a server that answers 404: %+v, %v", f, err)
	}
	closed := closedPort(t)
	if f, err := Get(t.Context(), "http://"+closed); err == nil || f == nil || !strings.Contains(f.Cause, closed) {
		t.Errorf("a closed port: %+v, %v", f, err)
	}
}
