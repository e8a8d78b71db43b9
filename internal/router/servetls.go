package router

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/certificate"
	"subnetrouter/internal/config"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/httpfront"
	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/tlsfront"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// maxTLSConns bounds the connections to served ports with TLS or HTTP, and the requests of those with HTTP. At worst they take an eighth of the open files, of
// which each needs two.
const (
	maxTLSConns = 512
	minTLSConns = 32
)

func tlsConns(files int64) int {
	if files == 0 {
		return maxTLSConns
	}
	return int(min(max(files/16, minTLSConns), maxTLSConns))
}

// filesOfTLS returns the number of open files that served ports with TLS or HTTP need at worst.
func (r *Router) filesOfTLS() int {
	if !r.cfg.TerminatesTLS() && !r.cfg.AnswersHTTP() {
		return 0
	}
	return 2*tlsConns(limits.MaxOpenFiles()) + httpfront.IdleTargets
}

// tlsPorts terminates TLS and answers HTTP for the ports of ROUTER_SERVE that ask for it.
type tlsPorts struct {
	server      *tlsfront.Server
	http        *httpfront.Server
	certificate atomic.Pointer[tls.Certificate]                                  // nil before there is one
	request     func(ctx context.Context, name string) (*tls.Certificate, error) // both results may be set
	running     func() bool                                                      // the node is a member of the tailnet
	name        func() string                                                    // the node's, for a certificate; "" if the tailnet allows none
	log         *slog.Logger
	expiry      prometheus.Gauge
	failed      *prometheus.CounterVec
}

// newTLSPorts opens the front of the ports with TLS or HTTP. It returns nil if there are none.
func (r *Router) newTLSPorts() (*tlsPorts, error) {
	if !r.cfg.TerminatesTLS() && !r.cfg.AnswersHTTP() {
		return nil, nil
	}
	t := &tlsPorts{
		request: r.requestCertificate(), log: r.log,
		running: func() bool { s, _ := r.node.Status(); return s.Running() },
		name:    r.node.CertificateName,
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_serve_certificate_expiry_timestamp_seconds", Help: "End of the certificate of the node's name, in Unix time; 0 while there is none.",
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_serve_tls_failures_total", Help: "Connections to served ports with TLS or HTTP, and HTTP requests there, that did not reach their target, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range tlsfront.Reasons {
		t.failed.WithLabelValues(string(reason))
	}
	failed := func(reason string, err error) {
		t.failed.WithLabelValues(reason).Inc()
		t.log.Debug("connection to a served port with TLS or HTTP failed", "reason", reason, "err", err)
	}
	t.http = httpfront.New(httpfront.Config{
		Dial: r.served.dial, OwnName: r.ownsName, Current: r.served.current,
		Owner:    func(a netip.Addr) httpfront.User { return httpfront.User(r.node.Owner(a)) },
		Requests: tlsConns(limits.MaxOpenFiles()), Memory: r.forward.FrontMemory(), Logger: r.log,
		Failed: func(reason httpfront.Reason, err error) { failed(string(reason), err) },
	})
	var err error
	t.server, err = tlsfront.New(tlsfront.Config{
		Certificate: t.current,
		HTTP: func(c net.Conn, f tlsfront.Flow) {
			t.http.Handle(c, httpfront.Peer{Client: f.Client, Source: f.Source, Target: f.Target})
		},
		Dial:  r.served.dial,
		Conns: tlsConns(limits.MaxOpenFiles()), Memory: r.forward.FrontMemory(),
		Failed: func(reason tlsfront.Reason, err error) { failed(string(reason), err) },
	})
	if err != nil {
		return nil, problem.Wrapf(err, "listening for ports with TLS or HTTP (ROUTER_SERVE)")
	}
	r.deny.Opened(t.server.Addr())
	r.served.front = t.server.Addr().(*net.TCPAddr).AddrPort()
	if r.cfg.TerminatesTLS() {
		r.registry.MustRegister(t.expiry)
	}
	r.registry.MustRegister(t.failed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "router_serve_tls_connections", Help: "Connections to served ports with TLS or HTTP that are open.",
	}, func() float64 { return float64(t.server.Connections()) }))
	return t, nil
}

var errNoCertificate = errors.New("there is no certificate yet: the log has the cause")

func (t *tlsPorts) current() (*tls.Certificate, error) {
	if c := t.certificate.Load(); c != nil {
		return c, nil
	}
	return nil, errNoCertificate
}

const (
	certificateRefresh = time.Hour       // between two looks at the end of the certificate
	certificateTimeout = 3 * time.Minute // of a request: control and the authority write and read DNS
	nameEvery          = time.Minute     // between two looks at the node's name
)

// follow keeps the certificate until ctx ends. Let's Encrypt allows five failures an hour, so the pauses after a failure grow.
func (t *tlsPorts) follow(ctx context.Context) {
	pause := backoff.Backoff{First: time.Minute, Max: time.Hour, Share: backoff.Retry}
	for {
		wait, name := time.Second, "" // until the node is a member
		if t.running() {
			name = t.name()
			requesting, cancel := context.WithTimeout(ctx, certificateTimeout)
			c, err := t.request(requesting, name)
			cancel()
			t.use(c, name)
			if err == nil {
				wait = certificateRefresh
				pause.Reset()
			} else if ctx.Err() == nil {
				wait = pause.Next()
				t.log.Error("no new certificate for served ports with TLS", "err", err, "fix", problem.Of(err).Fix, "retry_in", wait.Round(time.Second).String())
			}
		}
		if !t.await(ctx, wait, name) {
			return
		}
	}
}

// await waits, but not longer than nameEvery once the node has another name. It returns false if ctx ended first.
func (t *tlsPorts) await(ctx context.Context, wait time.Duration, name string) bool {
	for ; wait > 0; wait -= nameEvery {
		if !backoff.Sleep(ctx, min(wait, nameEvery)) {
			return false
		}
		if t.name() != name {
			break
		}
	}
	return true
}

// use replaces the certificate in use, unless c is nil and that is for the name.
func (t *tlsPorts) use(c *tls.Certificate, name string) {
	last := t.certificate.Load()
	switch {
	case c == nil && last != nil && name != "" && last.Leaf.VerifyHostname(name) != nil:
		t.certificate.Store(nil)
		t.expiry.Set(0)
	case c != nil:
		t.certificate.Store(c)
		t.expiry.Set(float64(c.Leaf.NotAfter.Unix()))
		if last == nil || !slices.EqualFunc(last.Certificate, c.Certificate, slices.Equal) {
			t.log.Info("certificate for served ports with TLS", "names", c.Leaf.DNSNames, "until", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

// requestCertificate returns the function that gets the certificate of the node's name.
func (r *Router) requestCertificate() func(context.Context, string) (*tls.Certificate, error) {
	var keeper *certificate.Keeper // only follow's goroutine uses it
	return func(ctx context.Context, name string) (*tls.Certificate, error) {
		if keeper == nil { // the node has started
			keeper = certificate.New(certificate.Config{
				Directory: tailnet.CertificateDirectory(), SetTXT: r.node.SetTXT, Store: r.certificateStore(),
				HTTP:  &http.Client{Transport: httpproxy.Transport(), Timeout: 30 * time.Second},
				Agent: "subnetrouter/" + r.opts.Version.Router,
			})
		}
		if name == "" {
			return nil, problem.New("enable MagicDNS and HTTPS certificates on the DNS page of the tailnet's admin console, or remove /tls and write /http in place of /https in ROUTER_SERVE",
				"the tailnet does not allow certificates")
		}
		c, err := keeper.Get(ctx, name)
		if err != nil {
			p := *problem.Of(err)
			p.Fix = "let the task reach acme-v02.api.letsencrypt.org by HTTPS; if that limits the rate, use a ROUTER_STATE that lasts, so that a deployment needs no new certificate"
			err = &p
		}
		return c, err
	}
}

// certificateStore returns the node's state if that lasts and has room, or else a store in memory.
func (r *Router) certificateStore() certificate.Store {
	if identity.HasRoom(r.cfg.Identity.Source) {
		return r.node.Kept()
	}
	return memoryStore{}
}

// memoryStore is a [certificate.Store].
type memoryStore map[string][]byte

// Read implements [certificate.Store].
func (m memoryStore) Read(key string) []byte { return m[key] }

// Write implements [certificate.Store].
func (m memoryStore) Write(key string, value []byte) { m[key] = value }

// serveTLS serves the ports with TLS or HTTP until ctx ends.
func (r *Router) serveTLS(ctx context.Context) error {
	if r.tlsPorts == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.tlsPorts.server.Serve(ctx) })
	group.Go(func() error { return r.tlsPorts.http.Serve(ctx) })
	if r.cfg.TerminatesTLS() {
		group.Go(func() error {
			r.tlsPorts.follow(ctx)
			return nil
		})
	}
	return group.Wait()
}

// drainHTTP closes connections to ports with HTTP after their requests.
func (r *Router) drainHTTP(ctx context.Context) {
	if r.tlsPorts != nil {
		r.tlsPorts.http.Drain(ctx)
	}
}

// awaitedRequests returns the number of requests to ports with HTTP that a drain waits for.
func (r *Router) awaitedRequests() int {
	if r.tlsPorts == nil {
		return 0
	}
	return r.tlsPorts.http.Awaited()
}

// ownsName reports whether a host in a request, in lower case, is this node: its name, with or without the tailnet's domain,
// or one of its addresses.
func (r *Router) ownsName(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return r.node.Owns(a)
	}
	s, _ := r.node.Status()
	return isName(host, s.FullName, s.Name)
}

// isName reports whether a host, in lower case, is a node's full name, the same without the domain, or its name.
func isName(host, full, name string) bool {
	full = strings.ToLower(strings.TrimSuffix(full, "."))
	short, _, _ := strings.Cut(full, ".")
	return host != "" && (host == full || host == short || host == strings.ToLower(name))
}

// frontOf returns the address in front of a served port with TLS or HTTP; the zero address for all others.
func (s *served) frontOf(protocol forward.Protocol, target netip.AddrPort) netip.AddrPort {
	if p := s.ports[target.Port()]; p != nil && p.kind != config.ServeTCP && protocol == forward.TCP && s.owns(target.Addr()) {
		return s.front
	}
	return netip.AddrPort{}
}

// flowKinds are the kinds of ports that have a front.
var flowKinds = map[config.ServeKind]tlsfront.Kind{config.ServeTLS: tlsfront.TLS, config.ServeHTTP: tlsfront.HTTP, config.ServeHTTPS: tlsfront.HTTPS}

// current reports whether a target is that of a port with HTTP now, and not only when the client connected: a name may have
// got another address since.
func (s *served) current(target netip.AddrPort) bool {
	for _, p := range s.ports {
		if a := p.addr.Load(); a != nil && *a == target && p.kind.HTTP() {
			return true
		}
	}
	return false
}

// dial connects to a target, for which the data path has admitted a flow.
func (s *served) dial(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	if err := s.may(target); err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", target.String())
}

// preface returns the bytes that a target gets before those of the client: the PROXY header, and for the front of a port
// with TLS or HTTP also the target. HTTP has headers of its own for the client, and connections that clients share. front is that of
// the flow, whose destination may have ceased to be the node's own since.
func (r *Router) preface(client, dst, target netip.AddrPort, front bool) []byte {
	if !front {
		return r.ProxyHeader(client, dst, target)
	}
	p := r.served.ports[dst.Port()]
	if p == nil || p.kind == config.ServeTCP {
		return nil
	}
	f := tlsfront.Flow{Kind: flowKinds[p.kind], Client: r.node.NodeAddress(client.Addr()), Source: client.Addr(), Target: target}
	if !p.kind.HTTP() {
		f.Header = r.ProxyHeader(client, dst, target)
	}
	return f.Bytes()
}
