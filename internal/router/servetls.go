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
	"subnetrouter/internal/forward"
	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/problem"
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
	certificate atomic.Pointer[tls.Certificate]                                  // nil before there is one
	request     func(ctx context.Context, name string) (*tls.Certificate, error) // both results may be set
	running     func() bool                                                      // the node is a member of the tailnet
	name        func() string                                                    // the node's, for a certificate; "" if the tailnet allows none
	log         *slog.Logger
	expiry      prometheus.Gauge
	failed      *prometheus.CounterVec
}

// newTLSPorts opens the front of the ports with TLS. It returns nil if there are none.
func (r *Router) newTLSPorts() (*tlsPorts, error) {
	if !r.cfg.TerminatesTLS() {
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
			Name: "router_serve_tls_failures_total", Help: "Connections to served ports with TLS that did not reach their target, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range tlsfront.Reasons {
		t.failed.WithLabelValues(string(reason))
	}
	var err error
	t.server, err = tlsfront.New(tlsfront.Config{
		Certificate: t.current,
		Dial:        r.served.dial,
		Conns:       tlsConns(limits.MaxOpenFiles()), Memory: r.forward.FrontMemory(),
		Failed: func(reason tlsfront.Reason, err error) {
			t.failed.WithLabelValues(string(reason)).Inc()
			t.log.Debug("connection to a served port with TLS failed", "reason", string(reason), "err", err)
		},
	})
	if err != nil {
		return nil, problem.Wrapf(err, "listening for ports with TLS (ROUTER_SERVE)")
	}
	r.deny.Opened(t.server.Addr())
	r.served.front = t.server.Addr().(*net.TCPAddr).AddrPort()
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
			return nil, problem.New("enable MagicDNS and HTTPS certificates on the DNS page of the tailnet's admin console, or remove /tls from ROUTER_SERVE",
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

// frontOf returns the address in front of a served port with TLS; the zero address for all others.
func (s *served) frontOf(protocol forward.Protocol, target netip.AddrPort) netip.AddrPort {
	if p := s.ports[target.Port()]; p != nil && p.tls && protocol == forward.TCP && s.owns(target.Addr()) {
		return s.front
	}
	return netip.AddrPort{}
}

// dial connects to a target, for which the data path has admitted a flow.
func (s *served) dial(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	if err := s.may(target); err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", target.String())
}

// preface returns the bytes that a target gets before those of the client: the PROXY header, and for the front of a port
// with TLS also the target.
func (r *Router) preface(client, dst, target netip.AddrPort) []byte {
	header := r.ProxyHeader(client, dst, target)
	if !r.served.frontOf(forward.TCP, dst).IsValid() {
		return header
	}
	return tlsfront.Flow{Client: r.node.NodeAddress(client.Addr()), Target: target, Header: header}.Bytes()
}
