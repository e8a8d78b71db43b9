// Package forward is the data path: it carries TCP, UDP and ICMP echo from
// tailnet peers to addresses behind the router. It knows neither Tailscale nor
// AWS: flows come in through [Forwarder]'s methods, and go out through a dialer.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config says how to forward. The zero value of a field means the default that
// its comment gives.
type Config struct {
	// Dial opens a connection behind the router; the network is "tcp" or
	// "udp". Default: the operating system's, with keepalive.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Deny reports targets that must never be reached. Default: none.
	Deny func(target netip.AddrPort) bool
	// DialTimeout bounds a TCP dial; a client's own SYN gives up after about
	// as long as several of its retransmissions. Default: 10 s.
	DialTimeout time.Duration
	// Registerer takes the metrics. Default: none are kept.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// keepAlive finds clients and servers that went away without a word: first
// probe after 60 s without traffic, gone after 60 + 4 x 15 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

// Forwarder forwards. Create it with [New].
type Forwarder struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	pinger  *pinger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu    sync.Mutex
	flows map[*flow]struct{}
}

// New creates a Forwarder.
func New(cfg Config) (*Forwarder, error) {
	if cfg.Logger == nil {
		return nil, errors.New("creating forwarder: Logger is needed")
	}
	if cfg.Dial == nil {
		d := net.Dialer{KeepAliveConfig: keepAlive}
		cfg.Dial = d.DialContext
	}
	if cfg.Deny == nil {
		cfg.Deny = func(netip.AddrPort) bool { return false }
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("registering forwarder metrics: %w", err)
	}
	f := &Forwarder{cfg: cfg, log: cfg.Logger, metrics: m, flows: map[*flow]struct{}{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.pinger = newPinger(f.ctx, cfg.Logger)
	return f, nil
}

// Denied reports whether target must never be reached, and counts it if so.
func (f *Forwarder) Denied(target netip.AddrPort) bool {
	if !f.cfg.Deny(target) {
		return false
	}
	f.metrics.denied.Inc()
	return true
}

// Close ends every flow that is left, so that both ends see it at once, and
// reports how many there were.
func (f *Forwarder) Close() int {
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := range f.flows {
		fl.abort()
	}
	return len(f.flows)
}

// Active counts the flows that are open now, by protocol.
func (f *Forwarder) Active() (tcp, udp int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := range f.flows {
		switch fl.protocol {
		case "tcp":
			tcp++
		case "udp":
			udp++
		}
	}
	return tcp, udp
}

// flow is one connection in each direction, from open to close.
type flow struct {
	protocol        string
	client, backend net.Conn
}

// abort ends both sides; where TCP allows, by a reset.
func (fl *flow) abort() {
	if b, ok := fl.backend.(interface{ SetLinger(int) error }); ok {
		b.SetLinger(0)
	}
	fl.backend.Close()
	fl.client.Close()
}

func (f *Forwarder) open(fl *flow) (done func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return nil, false
	}
	f.flows[fl] = struct{}{}
	f.metrics.opened[fl.protocol].Inc()
	f.metrics.active[fl.protocol].Inc()
	return func() {
		f.mu.Lock()
		delete(f.flows, fl)
		f.mu.Unlock()
		f.metrics.active[fl.protocol].Dec()
	}, true
}

// dial opens the backend side, and accounts for it.
func (f *Forwarder) dial(protocol string, target netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, f.cfg.DialTimeout)
	defer cancel()
	start := time.Now()
	c, err := f.cfg.Dial(ctx, protocol, target.String())
	f.metrics.dialDuration.Observe(time.Since(start).Seconds())
	if err != nil {
		reason := dialFailure(err)
		f.metrics.failed[protocol][reason].Inc()
		f.log.Debug("dialing target failed", "protocol", protocol, "target", target.String(), "reason", reason, "err", err)
	}
	return c, err
}

// The reasons of a failed dial: a closed set, for it is a metric's label.
const (
	refused     = "refused"
	timedOut    = "timeout"
	unreachable = "unreachable"
	exhausted   = "exhausted"
	other       = "other"
)

func dialFailure(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return unreachable
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return exhausted
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return timedOut
	}
	return other
}
