// Package egress opens connections from the router's network into the tailnet on behalf of programs there: a SOCKS5
// proxy, an HTTP proxy, and ports that are forwarded to fixed targets.
//
//	program ──▶ listener ─▶ admission ─┬─ SOCKS5 ─┐
//	                                   ├─ HTTP ───┼─▶ Dial ─▶ flow: bytes both ways, metrics, log
//	                                   └─ port ───┘
//	program ──▶ UDP socket ─▶ session of client and target ─▶ Dial ─▶ flow
//
// It depends on neither Tailscale nor the data path: [Config.Dial] decides which targets are in the tailnet.
package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"subnetrouter/internal/duplex"

	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a [Server].
type Config struct {
	// SOCKS5 and HTTP are the listen addresses of the proxies, host:port; "" is none. If they are equal, one
	// listener serves both.
	SOCKS5, HTTP string
	Ports        []Port
	// Dial connects to a target, host:port, in the tailnet. The network is "tcp" or "udp". The connection has a method
	// CloseWrite if it is TCP. An error may be [ErrForbidden] or [ErrLimit].
	Dial func(ctx context.Context, network, target string) (net.Conn, error)
	// Opened is called for each listener as soon as it is bound. It must not call the server.
	Opened func(net.Addr)
	// Connections bounds the open connections of programs; one address has half of them at most.
	Connections int
	// Memory gives the memory of buffers. Default: as much as asked for.
	Memory duplex.Memory
	// Finished is called for each flow that has ended. It must not block. Default: none.
	Finished   func(Flow)
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// unlimited is the default of [Config.Memory].
type unlimited struct{}

func (unlimited) Reserve(int64) bool { return true }
func (unlimited) Release(int64)      {}

// Port is a port of the router that is forwarded to a target.
type Port struct {
	Listen string // host:port
	UDP    bool
	Target string // host:port
}

func (p Port) protocol() string {
	if p.UDP {
		return "udp"
	}
	return "tcp"
}

// ErrForbidden is the error of a target that must not be reached: it is not in the tailnet, or denied.
var ErrForbidden = errors.New("the target must not be reached")

// ErrLimit is the error of a dial at a bound of the caller's.
var ErrLimit = errors.New("too many connections")

const (
	// handshakeTimeout bounds the time in which a program sends its request to a proxy.
	handshakeTimeout = 10 * time.Second
	dialTimeout      = 15 * time.Second
)

// Server serves the listeners of a [Config]. Create it with [New].
type Server struct {
	cfg      Config
	metrics  *metrics
	admitted *admission
	sessions *sessions
	http     *httpProxy // nil if it is off

	ctx    context.Context // of everything that serves a program; ends with Close
	cancel context.CancelCauseFunc

	mu        sync.Mutex // covers the fields below
	listeners []*net.TCPListener
	packets   []*net.UDPConn
	serving   sync.WaitGroup
	draining  bool
}

// New returns a server without listeners, and registers its metrics.
func New(cfg Config) (*Server, error) {
	if cfg.Memory == nil {
		cfg.Memory = unlimited{}
	}
	s := &Server{cfg: cfg, admitted: newAdmission(cfg.Connections)}
	s.metrics = newMetrics(cfg.Ports, s.admitted)
	if cfg.Registerer != nil {
		if err := s.metrics.register(cfg.Registerer); err != nil {
			return nil, fmt.Errorf("registering egress metrics: %w", err)
		}
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.sessions = newSessions(s)
	if cfg.HTTP != "" {
		s.http = newHTTPProxy(s)
	}
	return s, nil
}

// Open binds all listeners and serves them until Drain or Close. If one cannot be bound, it closes the others. After
// Drain, it opens none: a drain may begin before the listeners are open, and while they are being opened.
func (s *Server) Open() (err error) {
	defer func() {
		switch {
		case errors.Is(err, errDraining):
			err = nil
		case err != nil:
			s.Close()
		}
	}()
	if s.http != nil {
		if err := s.start(s.http.serve); err != nil {
			return err
		}
	}
	if at := s.cfg.SOCKS5; at != "" {
		if err := s.openSOCKS5(at); err != nil {
			return fmt.Errorf("listening on ROUTER_SOCKS5_LISTEN=%s: %w", at, err)
		}
	}
	if at := s.cfg.HTTP; at != "" && at != s.cfg.SOCKS5 {
		if _, err := s.listenTCP(at, s.serveHTTP); err != nil {
			return fmt.Errorf("listening on ROUTER_HTTP_PROXY_LISTEN=%s: %w", at, err)
		}
	}
	for _, p := range s.cfg.Ports {
		open := s.openPort
		if p.UDP {
			open = s.openUDPPort
		}
		if err := open(p); err != nil {
			return fmt.Errorf("listening on %s for ROUTER_EGRESS: %w", p.Listen, err)
		}
	}
	return nil
}

// Drain closes the listeners. Open connections continue, and UDP sessions too; there are no new ones.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for _, ln := range s.listeners {
		ln.Close()
	}
	s.listeners = nil
	s.sessions.drain()
	if s.http != nil {
		s.http.drain()
	}
}

// Wait waits until no TCP connection is open, or ctx ends. It returns the number of open ones.
func (s *Server) Wait(ctx context.Context) (open int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if open = s.admitted.open(); open == 0 {
			return 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return open
		}
	}
}

// Close closes the listeners and cuts all connections.
func (s *Server) Close() {
	s.Drain()
	s.cancel(net.ErrClosed)
	s.mu.Lock()
	for _, c := range s.packets {
		c.Close()
	}
	s.packets = nil
	s.mu.Unlock()
	s.admitted.cut()
	s.serving.Wait()
}

// start runs f, which Close waits for, unless the server drains.
func (s *Server) start(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return errDraining
	}
	s.run(f)
	return nil
}

// run runs f, which Close waits for. It is called with mu held and draining false, or by what Close waits for: Close does
// not begin to wait meanwhile.
func (s *Server) run(f func()) { s.serving.Go(f) }
