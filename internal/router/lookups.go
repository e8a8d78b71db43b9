package router

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/targets"
	"subnetrouter/internal/bootstrap/zones"
	"subnetrouter/internal/config"
	"subnetrouter/internal/tsapi"

	"github.com/prometheus/client_golang/prometheus"
)

// lookUps schedules the look-ups of package bootstrap, counts them, and keeps the last good
// results.
type lookUps struct {
	boot        *bootstrap.Bootstrap
	log         *slog.Logger
	steps       *stepMetrics
	credentials *credentials
	ephemeral   bool // the node has no state
	outside     bool // not a task of ECS
	hostsName   bool // see [config.Config]

	mu       sync.Mutex // protects the fields below
	place    place.Place
	follower *routesource.Follower // nil until the engine is up
	resolver *routesource.Resolver // nil while the VPC's is unknown
	routes   routesource.Routes    // of the last successful look-up
	zones    zones.Zones
}

// LookUpConfig returns the part of cfg that package bootstrap needs.
func LookUpConfig(cfg config.Config, log *slog.Logger) bootstrap.Config {
	return bootstrap.Config{
		Credential:  cfg.Credential,
		Identity:    cfg.Identity,
		Routes:      cfg.Routes,
		Zones:       cfg.Zones,
		DNSRegister: cfg.DNSRegister,
		Targets:     targets.Settings{Wanted: cfg.Access != config.AccessOff},
		MetadataURI: cfg.MetadataURI,
		ControlURL:  cfg.ControlURL,
		Logger:      log,
	}
}

func newLookUps(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) *lookUps {
	c := LookUpConfig(cfg, log)
	c.Called = newCounters(reg, "action", bootstrap.Actions(c, false),
		prometheus.CounterOpts{Name: "router_aws_calls_total", Help: "AWS calls, by action; each page of an answer counts, retries of the SDK do not."},
		prometheus.CounterOpts{Name: "router_aws_call_failures_total", Help: "AWS calls that failed after all retries, by action."}).called
	c.APICalled = newCounters(reg, "call", tsapi.Calls,
		prometheus.CounterOpts{Name: "router_tailscale_api_calls_total", Help: "Calls to Tailscale's API, by call."},
		prometheus.CounterOpts{Name: "router_tailscale_api_call_failures_total", Help: "Calls to Tailscale's API that failed, by call."}).called
	s := &lookUps{boot: bootstrap.New(c), log: log, steps: newStepMetrics(reg), ephemeral: !identity.Lasting(cfg.Identity.Source), outside: cfg.MetadataURI == "", hostsName: cfg.HostsName}
	s.credentials = &credentials{boot: s.boot, log: log, steps: s.steps, prefetched: make(chan struct{})}
	s.credentials.register(reg)
	choice := s.boot.CredentialChoice()
	log.Info("credential chosen", "source", choice.What, "why", choice.Why)
	return s
}

// start begins the look-ups that every start needs, so that they run while the engine
// starts. A node without state always needs a credential; with kept state, which is most
// likely valid, control does not ask for one.
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

// awaitPlace returns the place of the task. It retries for as long as a task may take to
// get its network.
func (s *lookUps) awaitPlace(ctx context.Context) (place.Place, error) {
	const timeout, pause = 20 * time.Second, time.Second
	deadline := time.Now().Add(timeout)
	for {
		place, err := s.boot.Place(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return place, err
		}
		backoff.Sleep(ctx, pause)
	}
}

// hostname derives the node's name from the task's family, or from the host's name as tailscaled does.
func (s *lookUps) hostname(ctx context.Context) string {
	switch {
	case s.hostsName:
		name, _ := os.Hostname()
		name, _, _ = strings.Cut(name, ".")
		return hostnameFrom(name)
	case s.outside:
		return defaultHostname
	}
	place, err := s.awaitPlace(ctx)
	if err != nil {
		s.log.Warn("task family unknown; using the default hostname", "err", err, "hostname", defaultHostname,
			"fix", "set ROUTER_HOSTNAME")
		return defaultHostname
	}
	return hostnameFrom(place.Family)
}

const defaultHostname = "subnet-router"

var notInLabel = regexp.MustCompile(`[^a-z0-9-]+`)

// hostnameFrom turns a name, such as a task family (letters, digits, - and _), into a DNS label.
func hostnameFrom(name string) string {
	label := notInLabel.ReplaceAllString(strings.ToLower(name), "-")
	label = strings.Trim(label[:min(len(label), 63)], "-")
	if label == "" {
		return defaultHostname
	}
	return label
}

// followRoutes looks the routes up periodically until ctx ends, and calls apply with the
// result of each successful look-up. inUse is that of [routesource.Follow].
func (s *lookUps) followRoutes(ctx context.Context, every time.Duration, inUse func(netip.Addr) bool, apply func([]netip.Prefix)) {
	f := s.boot.Follow(routesource.Follow{
		Every: every,
		Apply: apply,
		Around: func(look func() error) error {
			return s.steps.time("routes", look)
		},
		Found: func(r routesource.Routes) { s.foundRoutes(ctx, r) },
		InUse: inUse,
	})
	s.mu.Lock()
	s.follower = f
	s.mu.Unlock()
	f.Run(ctx)
}

// foundRoutes stores the other results of a look-up of routes: the VPC and subnet, which
// task metadata lacks on Fargate, and the VPC's resolver.
func (s *lookUps) foundRoutes(ctx context.Context, r routesource.Routes) {
	place, err := s.boot.Place(ctx)
	s.mu.Lock()
	if s.routes = r; err == nil {
		s.place = place
	}
	s.mu.Unlock()
	s.findResolver(ctx)
}

// findResolver stores the VPC's resolver, which depends on the routes and, if task metadata
// does not name it, on the VPC's CIDR.
func (s *lookUps) findResolver(ctx context.Context) {
	s.mu.Lock()
	routes := s.routes
	s.mu.Unlock()
	resolver, ok := s.boot.Resolver(ctx, routes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resolver = nil; ok {
		s.resolver = &resolver
	}
}

// minZonesInterval bounds the interval of look-ups of zones from below: Route 53 allows an
// account five calls per second.
const minZonesInterval = time.Minute

// followZones looks the zones up, now and then at the given interval, until ctx ends. It logs
// each note once while it lasts.
func (s *lookUps) followZones(ctx context.Context, every time.Duration) {
	var before []string
	for {
		found, err := s.boot.Zones(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.zones = found
		s.mu.Unlock()
		s.findResolver(ctx)
		for _, note := range found.Notes {
			if !slices.Contains(before, note) {
				s.log.Warn("zones for split DNS have a caveat", "note", note)
			}
		}
		if before = found.Notes; err == nil {
			s.log.Debug("zones looked up", "zones", len(found.List))
		}
		if !backoff.Sleep(ctx, backoff.Jitter(max(every, minZonesInterval), backoff.Interval)) {
			return
		}
	}
}

// results returns the newest results of the look-ups; found is zero before the first routes.
func (s *lookUps) results() (place place.Place, routes routesource.Routes, found time.Time, routesErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follower == nil {
		return s.place, routesource.Routes{}, time.Time{}, nil
	}
	now := s.follower.Now()
	return s.place, now.Routes, now.Found, now.Err
}

// dns returns the VPC's resolver, or nil while it is unknown, and its zones.
func (s *lookUps) dns() (*routesource.Resolver, zones.Zones) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resolver, s.zones
}

// stepMetrics counts and times the look-ups.
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
			Name: "router_bootstrap_failures_total", Help: "Look-ups that failed, by step.",
		}, labels),
		duration: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "router_bootstrap_duration_seconds", Help: "Duration of the last look-up, by step.",
		}, labels),
	}
	for _, step := range []string{"metadata", "credential", "routes", "targets"} {
		m.attempts.WithLabelValues(step)
		m.failures.WithLabelValues(step)
	}
	reg.MustRegister(m.attempts, m.failures, m.duration)
	return m
}

// time calls f, and records its duration and error as those of step.
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
