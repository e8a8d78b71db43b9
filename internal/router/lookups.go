package router

import (
	"context"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/config"
	"subnetrouter/internal/tsapi"

	"github.com/prometheus/client_golang/prometheus"
)

// lookUps makes the look-ups of package bootstrap at the right moments, counts
// them, and remembers the last good answers.
type lookUps struct {
	boot        *bootstrap.Bootstrap
	log         *slog.Logger
	steps       *stepMetrics
	credentials *credentials
	ephemeral   bool // the node has no state

	mu       sync.Mutex
	place    place.Place
	follower *routesource.Follower // nil until the engine is up
	resolver *routesource.Resolver // nil where nothing tells the VPC's
}

// LookUpConfig returns what package bootstrap needs of a configuration.
func LookUpConfig(cfg config.Config, log *slog.Logger) bootstrap.Config {
	return bootstrap.Config{
		Credential:  cfg.Credential,
		Routes:      cfg.Routes,
		MetadataURI: cfg.MetadataURI,
		ControlURL:  cfg.ControlURL,
		Ephemeral:   cfg.StateDir == "",
		Logger:      log,
	}
}

func newLookUps(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) *lookUps {
	c := LookUpConfig(cfg, log)
	c.Called = newCounters(reg, "action", bootstrap.Actions(c, false),
		prometheus.CounterOpts{Name: "router_aws_calls_total", Help: "AWS calls, by action; each page of a long answer is one, the SDK's further tries are not."},
		prometheus.CounterOpts{Name: "router_aws_call_failures_total", Help: "AWS calls that failed after all tries, by action."}).called
	c.APICalled = newCounters(reg, "call", []string{tsapi.CallToken, tsapi.CallTokenExchange, tsapi.CallCreateKey},
		prometheus.CounterOpts{Name: "router_tailscale_api_calls_total", Help: "Calls of Tailscale's API, by call."},
		prometheus.CounterOpts{Name: "router_tailscale_api_call_failures_total", Help: "Calls of Tailscale's API that failed, by call."}).called
	s := &lookUps{boot: bootstrap.New(c), log: log, steps: newStepMetrics(reg), ephemeral: c.Ephemeral}
	s.credentials = &credentials{boot: s.boot, log: log, steps: s.steps, prefetched: make(chan struct{})}
	s.credentials.register(reg)
	choice := s.boot.CredentialChoice()
	log.Info("credential chosen", "source", choice.What, "why", choice.Why)
	return s
}

// start begins the look-ups that are needed in any case, so that they run
// while the engine comes up. A node without state always needs a credential;
// kept state may well be valid, and then nobody asks for one.
func (s *lookUps) start(ctx context.Context) {
	go s.lookUpPlace(ctx)
	s.credentials.prefetch(ctx, s.ephemeral)
}

func (s *lookUps) lookUpPlace(ctx context.Context) {
	s.steps.time("metadata", func() error {
		place, err := s.boot.Place(ctx)
		if err == nil {
			s.mu.Lock()
			s.place = place
			s.mu.Unlock()
		}
		return err
	})
}

// awaitPlace waits for the metadata for as long as a task may take to get its
// network.
func (s *lookUps) awaitPlace(ctx context.Context) (place.Place, error) {
	const patience, pause = 20 * time.Second, time.Second
	deadline := time.Now().Add(patience)
	for {
		place, err := s.boot.Place(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return place, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// hostname derives the node's name from the task's family.
func (s *lookUps) hostname(ctx context.Context) string {
	place, err := s.awaitPlace(ctx)
	if err != nil {
		s.log.Warn("no task family to take the hostname from", "err", err, "hostname", defaultHostname,
			"fix", "set ROUTER_HOSTNAME")
		return defaultHostname
	}
	return hostnameFrom(place.Family)
}

const defaultHostname = "subnet-router"

var notInLabel = regexp.MustCompile(`[^a-z0-9-]+`)

// hostnameFrom makes a DNS label of a task family (letters, digits, - and _).
func hostnameFrom(family string) string {
	label := notInLabel.ReplaceAllString(strings.ToLower(family), "-")
	label = strings.Trim(label[:min(len(label), 63)], "-")
	if label == "" {
		return defaultHostname
	}
	return label
}

// followRoutes looks the routes up until ctx ends; apply gets them, good
// answers only.
func (s *lookUps) followRoutes(ctx context.Context, every time.Duration, apply func([]netip.Prefix)) {
	f := s.boot.Follow(routesource.Follow{
		Every: every,
		Apply: apply,
		Around: func(look func() error) error {
			return s.steps.time("routes", look)
		},
		Found: func(r routesource.Routes) { s.foundRoutes(ctx, r) },
	})
	s.mu.Lock()
	s.follower = f
	s.mu.Unlock()
	f.Run(ctx)
}

// foundRoutes learns what a look-up told beside the routes: on Fargate VPC and
// subnet, and the VPC's resolver.
func (s *lookUps) foundRoutes(ctx context.Context, r routesource.Routes) {
	place, err := s.boot.Place(ctx)
	resolver, ok := s.boot.Resolver(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.place = place
	}
	if s.resolver = nil; ok {
		s.resolver = &resolver
	}
}

// known is what the look-ups found so far.
func (s *lookUps) results() (place place.Place, routes routesource.Routes, found time.Time, routesErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follower == nil {
		return s.place, routesource.Routes{}, time.Time{}, nil
	}
	now := s.follower.Now()
	return s.place, now.Routes, now.Found, now.Err
}

// dns is the VPC's resolver, as far as anything tells it.
func (s *lookUps) dns() *routesource.Resolver {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resolver
}

// stepMetrics counts the look-ups.
type stepMetrics struct {
	attempts, failures *prometheus.CounterVec
	duration           *prometheus.GaugeVec
}

func newStepMetrics(reg prometheus.Registerer) *stepMetrics {
	labels := []string{"step"}
	m := &stepMetrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_bootstrap_attempts_total", Help: "Look-ups begun, by step.",
		}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_bootstrap_failures_total", Help: "Look-ups failed, by step.",
		}, labels),
		duration: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "router_bootstrap_duration_seconds", Help: "How long the last look-up took, by step.",
		}, labels),
	}
	for _, step := range []string{"metadata", "credential", "routes"} {
		m.attempts.WithLabelValues(step)
		m.failures.WithLabelValues(step)
	}
	reg.MustRegister(m.attempts, m.failures, m.duration)
	return m
}

func (m *stepMetrics) time(step string, f func() error) error {
	m.attempts.WithLabelValues(step).Inc()
	start := time.Now()
	err := f()
	m.duration.WithLabelValues(step).Set(time.Since(start).Seconds())
	if err != nil {
		m.failures.WithLabelValues(step).Inc()
	}
	return err
}
