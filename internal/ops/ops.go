// Package ops is what an operator and a scheduler see of the router over HTTP:
// metrics, liveness, readiness, status. It knows neither AWS nor Tailscale;
// what it shows comes through the functions of [Config].
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

// Reason is one thing that stands between the router and readiness.
type Reason struct {
	// Code is one of a small closed set, for machines.
	Code string `json:"code"`
	// Message says what is the matter, with values.
	Message string `json:"message"`
	// Fix says what to do, where there is something to do.
	Fix string `json:"fix,omitempty"`
}

// Readiness is the body of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []Reason `json:"reasons"`
	// Warnings are what will be a reason one day.
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
	// Live is nil while a restart would not help.
	Live func() error
	// NotReady gives the reasons; none means ready.
	NotReady func() []Reason
	// Warnings gives what will be a reason one day, unless somebody does
	// something. It may be nil.
	Warnings func() []Reason
	// Relays is what /derpmap shows, in JSON: the relays that control told of;
	// nil before it did. The func may be nil.
	Relays func() []byte
	// Status is what /status shows.
	Status func() Status
	// Private leaves the page out, and answers /status to this host only.
	Private bool
	Logger  *slog.Logger
}

// Server is the listener. Create it with [Listen].
type Server struct {
	cfg  Config
	ln   *guard
	http *http.Server

	statuses  shared[Status]
	onceReady atomic.Bool // as far as anybody asked
}

// A client has this long for a request, and for reading its answer. A profile takes
// 30 s unless asked for longer.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	profileTimeout = 5 * time.Minute
	maxHeader      = 16 << 10
	maxSymbols     = 1 << 20 // the only requests with a body: `go tool pprof` names functions by it
)

// Listen binds the address; [Server.Serve] answers.
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

// refusals counts the connections that a listener closed for its bounds.
func refusals(reg prometheus.Registerer, listener string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{
		Name:        "router_http_connections_refused_total",
		Help:        "Connections to the router's HTTP listeners that were closed because all places were taken.",
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

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Serve answers until ctx ends; then it lets requests under way finish.
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
	here, elsewhere := metrics(true), metrics(false)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if fromHere(r) {
			here.ServeHTTP(w, r)
			return
		}
		elsewhere.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /healthz/started", s.started)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /derpmap", s.derpMap)
	mux.HandleFunc("GET /{$}", s.page)
	return mux
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Live(); err != nil {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"live": false, "reason": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"live": true})
}

// started is liveness after the first readiness. A deployment may wait for it
// and nobody is restarted because the tailnet fails later. Readiness is looked
// at when somebody asks.
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

// derpMap is for `router doctor` beside this router.
func (s *Server) derpMap(w http.ResponseWriter, _ *http.Request) {
	var relays []byte
	if s.cfg.Relays != nil {
		relays = s.cfg.Relays()
	}
	if relays == nil {
		http.Error(w, "control has told of no relays yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, secret.Scrub(string(relays)))
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
	io.WriteString(w, secret.Scrub(text.String())) // the last wall: v should hold no secret
}
