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
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/certificate"
	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/proxyproto"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/tlsfront"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// maxTLSConns bounds the connections whose TLS the router terminates. At worst they take an eighth of the open files, of
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

// filesOfTLS returns the number of open files that terminating TLS needs at worst.
func (r *Router) filesOfTLS() int {
	if !r.cfg.TerminatesTLS() {
		return 0
	}
	return 2 * tlsConns(limits.MaxOpenFiles())
}

// tlsPorts terminates TLS for the ports of ROUTER_SERVE that ask for it.
type tlsPorts struct {
	server      *tlsfront.Server
	certificate atomic.Pointer[tls.Certificate]                 // nil before there is one
	request     func(context.Context) (*tls.Certificate, error) // both results may be set
	running     func() bool                                     // the node is a member of the tailnet
	log         *slog.Logger
	expiry      prometheus.Gauge
	failed      *prometheus.CounterVec
}

// newTLSPorts opens the fronts of the ports with TLS. It returns nil if there are none.
func (r *Router) newTLSPorts() (*tlsPorts, error) {
	if !r.cfg.TerminatesTLS() {
		return nil, nil
	}
	t := &tlsPorts{
		request: r.requestCertificate(), log: r.log,
		running: func() bool { s, _ := r.node.Status(); return s.Running() },
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_serve_certificate_expiry_timestamp_seconds", Help: "End of the certificate of the node's name, in Unix time; 0 while there is none.",
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_serve_tls_failures_total", Help: "Connections to served ports with TLS that did not reach their target, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range tlsfront.Reasons {
		t.failed.WithLabelValues(string(reason))
	}
	t.server = tlsfront.New(tlsfront.Config{
		Certificate: t.current,
		Headers:     len(r.cfg.ProxyProtocol) > 0, WantsHeader: r.wantsProxyHeader,
		Conns: tlsConns(limits.MaxOpenFiles()), Memory: r.forward,
		Failed: func(reason tlsfront.Reason, err error) {
			t.failed.WithLabelValues(string(reason)).Inc()
			t.log.Debug("connection to a served port with TLS failed", "reason", string(reason), "err", err)
		},
	})
	for _, p := range r.served.ports {
		if !p.tls {
			continue
		}
		addr, err := t.server.Open(func(ctx context.Context) (net.Conn, error) { return r.served.dial(ctx, p) })
		if err != nil {
			return nil, problem.Wrapf(err, "listening for %s (ROUTER_SERVE)", p.element)
		}
		r.deny.Opened(addr)
		p.front = addr.(*net.TCPAddr).AddrPort()
	}
	r.registry.MustRegister(t.expiry, t.failed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "router_serve_tls_connections", Help: "Connections to served ports with TLS that are open.",
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
)

// follow keeps the certificate until ctx ends. Let's Encrypt allows five failures an hour, so the pauses after a failure grow.
func (t *tlsPorts) follow(ctx context.Context) {
	pause := backoff.Backoff{First: time.Minute, Max: time.Hour, Share: backoff.Retry}
	for {
		wait := time.Second // until the node is a member
		if t.running() {
			requesting, cancel := context.WithTimeout(ctx, certificateTimeout)
			c, err := t.request(requesting)
			cancel()
			if c != nil {
				t.use(c)
			}
			if err == nil {
				wait = certificateRefresh
				pause.Reset()
			} else if ctx.Err() == nil {
				wait = pause.Next()
				t.log.Error("no new certificate for served ports with TLS", "err", err, "fix", problem.Of(err).Fix, "retry_in", wait.Round(time.Second).String())
			}
		}
		if !backoff.Sleep(ctx, wait) {
			return
		}
	}
}

// requestCertificate returns the function that gets the certificate of the node's name.
func (r *Router) requestCertificate() func(context.Context) (*tls.Certificate, error) {
	var keeper *certificate.Keeper // only follow's goroutine uses it
	return func(ctx context.Context) (*tls.Certificate, error) {
		if keeper == nil { // the node has started
			keeper = certificate.New(certificate.Config{
				Directory: tailnet.CertificateDirectory(), SetTXT: r.node.SetTXT, Store: r.certificateStore(),
				HTTP:  &http.Client{Transport: httpproxy.Transport(), Timeout: 30 * time.Second},
				Agent: "subnetrouter/" + r.opts.Version.Router,
			})
		}
		names := r.node.CertificateNames()
		if len(names) == 0 {
			return nil, problem.New("enable MagicDNS and HTTPS certificates on the DNS page of the tailnet's admin console, or remove /tls from ROUTER_SERVE",
				"the tailnet does not allow certificates")
		}
		c, err := keeper.Get(ctx, names[0])
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

func (t *tlsPorts) use(c *tls.Certificate) {
	if last := t.certificate.Swap(c); last == nil || !slices.EqualFunc(last.Certificate, c.Certificate, slices.Equal) {
		t.log.Info("certificate for served ports with TLS", "name", c.Leaf.Subject.CommonName, "names", c.Leaf.DNSNames, "until", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	t.expiry.Set(float64(c.Leaf.NotAfter.Unix()))
}

// serveTLS serves the ports with TLS until ctx ends.
func (r *Router) serveTLS(ctx context.Context) error {
	if r.tlsPorts == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.tlsPorts.server.Serve(ctx) })
	group.Go(func() error {
		r.tlsPorts.follow(ctx)
		return nil
	})
	return group.Wait()
}

// dial connects to the target of a port.
func (s *served) dial(ctx context.Context, p *servedPort) (net.Conn, error) {
	to := p.addr.Load()
	if to == nil {
		return nil, errors.New("the target's name has no address")
	}
	if err := s.may(*to); err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to.String())
}

// fronts reports whether an address is in front of a port with TLS.
func (s *served) fronts(a netip.AddrPort) bool {
	for _, p := range s.ports {
		if p.tls && p.front == a {
			return true
		}
	}
	return false
}

// wantsProxyHeader reports whether a target gets a PROXY header.
func (r *Router) wantsProxyHeader(target netip.AddrPort) bool {
	return slices.ContainsFunc(r.cfg.ProxyProtocol, func(t proxyproto.Target) bool { return t.Contains(target) })
}
