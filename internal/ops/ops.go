// Package ops serves the router's HTTP endpoints for operators and schedulers: metrics,
// liveness, readiness and status. It depends on neither AWS nor Tailscale; its data comes
// from the functions of [Config].
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"subnetrouter/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Readiness is the body of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []Reason `json:"reasons"`
	// Warnings are conditions that will become reasons unless something changes.
	Warnings []Reason `json:"warnings,omitempty"`
}

// Config connects the server with the router. All functions must be safe for
// concurrent use and answer quickly.
type Config struct {
	// Listen is the address, host:port.
	Listen string
	// Gatherer is the router's own registry.
	Gatherer prometheus.Gatherer
	// Registerer takes the server's own metrics. It may be nil.
	Registerer prometheus.Registerer
	// Engine serves the engine's own metrics in the Prometheus text format;
	// they appear in /metrics unchanged. It may be nil.
	Engine http.HandlerFunc
	// Live returns an error if restarting the process would help.
	Live func() error
	// NotReady returns the readiness reasons; without any, the router is ready.
	NotReady func() []Reason
	// Warnings returns the conditions that will become reasons unless something
	// changes. It may be nil.
	Warnings func() []Reason
	// DERPMap returns the body of /derpmap: the DERP map from control as JSON, nil
	// before it has arrived. The func may be nil.
	DERPMap func() []byte
	// Status returns the body of /status.
	Status func() Status
	// Why returns the answer to POST /why as JSON, or an error about the question. It may take
	// seconds, and returns when its context ends. It may be nil.
	Why func(context.Context, WhyQuestion) (any, error)
	// Private disables the page, and restricts /status to this host.
	Private bool
	Logger  *slog.Logger
}

// Server is the listener. Create it with [Listen].
type Server struct {
	cfg  Config
	ln   *guard
	http *http.Server

	statuses  shared[Status]
	askers    askers
	onceReady atomic.Bool // a request to /healthz/started has found the router ready
}

// Timeouts and limits of a request. A CPU profile takes 30 s by default.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	profileTimeout = 5 * time.Minute
	maxHeader      = 16 << 10
	maxSymbols     = 1 << 20 // body of a symbol look-up by `go tool pprof`; no other request may have a body
)

// Listen binds the address; [Server.Serve] accepts connections.
func Listen(cfg Config) (*Server, error) {
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on ROUTER_LISTEN=%s: %w", cfg.Listen, err)
	}
	s := &Server{cfg: cfg}
	s.statuses.make = cfg.Status
	s.http, s.ln = guarded(ln, StatusBounds, refusals(cfg.Registerer, "status"), http.MaxBytesHandler(s.handler(), 0), writeTimeout, cfg.Logger)
	return s, nil
}

// ServeProfiles serves handler on ln, within [DebugBounds], until ctx ends.
func ServeProfiles(ctx context.Context, ln net.Listener, handler http.Handler, reg prometheus.Registerer, log *slog.Logger) error {
	server, g := guarded(ln, DebugBounds, refusals(reg, "debug"), http.MaxBytesHandler(handler, maxSymbols), profileTimeout, log)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(g); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// refusals returns the counter of connections that a listener closes because of its bounds.
func refusals(reg prometheus.Registerer, listener string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{
		Name:        "router_http_connections_refused_total",
		Help:        "Connections to the router's HTTP listeners that were closed because the listener had too many.",
		ConstLabels: prometheus.Labels{"listener": listener},
	})
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}

func guarded(ln net.Listener, b Bounds, refused prometheus.Counter, h http.Handler, write time.Duration, log *slog.Logger) (*http.Server, *guard) {
	g := newGuard(ln, b, refused)
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      write,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         g.connState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}, g
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Serve answers requests until ctx ends, then waits up to a second for those in progress.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.http.Shutdown(last)
	})
	defer stop()
	if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on %s: %w", s.ln.Addr(), err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	gatherers := prometheus.Gatherers{s.cfg.Gatherer}
	if s.cfg.Engine != nil {
		gatherers = append(gatherers, engineGatherer(s.cfg.Engine))
	}
	all := shareGatherer(gatherers)
	metrics := func(fresh bool) http.Handler {
		return promhttp.HandlerFor(gatherer{all, fresh}, promhttp.HandlerOpts{
			EnableOpenMetrics: true,
			// One broken series must not hide the others.
			ErrorHandling: promhttp.ContinueOnError,
			ErrorLog:      slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
		})
	}
	fresh, cached := metrics(true), metrics(false)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if fromHere(r) {
			fresh.ServeHTTP(w, r)
			return
		}
		cached.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /healthz/started", s.started)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /derpmap", s.derpMap)
	mux.HandleFunc("GET /{$}", s.page)
	if s.cfg.Why != nil {
		mux.Handle("POST /why", http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.why)))
	}
	return mux
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Live(); err != nil {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"live": false, "reason": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"live": true})
}

// started reports readiness until the router has been ready once, and liveness from then
// on. A deployment can wait for it, but ECS does not restart the task if the tailnet fails
// later. It evaluates readiness only on requests.
func (s *Server) started(w http.ResponseWriter, r *http.Request) {
	if !s.onceReady.Load() {
		if len(s.cfg.NotReady()) > 0 {
			s.readyz(w, r)
			return
		}
		s.onceReady.Store(true)
	}
	s.healthz(w, r)
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := s.cfg.NotReady()
	code := http.StatusOK
	if len(reasons) > 0 {
		code = http.StatusServiceUnavailable
	} else {
		reasons = []Reason{} // a JSON list, never null
	}
	out := Readiness{Ready: len(reasons) == 0, Reasons: reasons}
	if s.cfg.Warnings != nil {
		out.Warnings = s.cfg.Warnings()
	}
	writeJSON(w, code, out)
}

// derpMap answers `router doctor`, which runs next to this router.
func (s *Server) derpMap(w http.ResponseWriter, _ *http.Request) {
	var derpMap []byte
	if s.cfg.DERPMap != nil {
		derpMap = s.cfg.DERPMap()
	}
	if derpMap == nil {
		http.Error(w, "no DERP map from control yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, secret.Scrub(string(derpMap)))
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	enc.Encode(v)
	io.WriteString(w, secret.Scrub(text.String())) // last resort: v should not contain a secret
}
