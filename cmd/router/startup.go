package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/config"
	"subnetrouter/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
)

// startup makes the look-ups of package bootstrap at the right moments, counts
// them, and remembers the last good answers.
type startup struct {
	boot     *bootstrap.Bootstrap
	log      *slog.Logger
	steps    *stepMetrics
	prefetch bool

	early chan credentialResult // the credential fetched ahead, taken once

	mu        sync.Mutex
	place     bootstrap.Place
	routes    bootstrap.Routes
	routesErr error
	found     time.Time // when routes were last looked up with success
}

type credentialResult struct {
	key secret.String
	err error
}

func bootstrapConfig(cfg config.Config, log *slog.Logger) bootstrap.Config {
	return bootstrap.Config{
		MetadataURI:        cfg.MetadataURI,
		SecretID:           cfg.AuthSecret.ID,
		SecretJSONKey:      cfg.AuthSecret.JSONKey,
		SecretVersionStage: cfg.AuthSecret.VersionStage,
		SecretVersionID:    cfg.AuthSecret.VersionID,
		AuthKey:            cfg.AuthKey,
		Sources:            cfg.Routes,
		Exclude:            cfg.ExcludeRoutes,
		Logger:             log,
	}
}

func newStartup(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) *startup {
	return &startup{
		boot:  bootstrap.New(bootstrapConfig(cfg, log)),
		log:   log,
		steps: newStepMetrics(reg),
		// Kept state may well be valid; then nobody asks for a credential.
		prefetch: cfg.StateDir == "",
		early:    make(chan credentialResult, 1),
	}
}

// start begins the look-ups that are needed in any case, so that they run
// while the engine comes up. A node without state always needs a credential.
func (s *startup) start(ctx context.Context) {
	go s.lookUpPlace(ctx)
	if s.prefetch {
		go func() {
			key, err := s.fetchCredential(ctx)
			s.early <- credentialResult{key, err}
		}()
	} else {
		close(s.early)
	}
}

// credential is called when control asks for one: first for what was fetched
// ahead, then afresh, so that a rotated secret is seen.
func (s *startup) credential(ctx context.Context) (secret.String, error) {
	select {
	case r, ok := <-s.early:
		if ok {
			close(s.early)
			return r.key, r.err
		}
		return s.fetchCredential(ctx)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *startup) fetchCredential(ctx context.Context) (key secret.String, err error) {
	err = s.steps.time("credential", func() error {
		var source string
		if key, source, err = s.boot.Credential(ctx); err == nil {
			s.log.Info("credential read", "source", source)
		}
		return err
	})
	return key, err
}

func (s *startup) lookUpPlace(ctx context.Context) {
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

// hostname derives the node's name from the task's family. It waits for the
// metadata for as long as a task may take to get its network.
func (s *startup) hostname(ctx context.Context) string {
	const patience = 20 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	place, err := s.boot.Place(ctx)
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

// followRoutes looks the routes up until ctx ends: with backoff until the
// first success, then every interval with jitter. A failed look-up never takes
// a route away: apply is called with good answers only.
func (s *startup) followRoutes(ctx context.Context, every time.Duration, apply func([]netip.Prefix)) {
	const firstPause, mostPause = time.Second, time.Minute
	pause := firstPause
	for {
		err := s.lookUpRoutes(ctx, apply)
		if ctx.Err() != nil {
			return
		}
		wait := every
		switch {
		case err == nil:
			pause = firstPause
		default:
			wait = min(pause, every)
			pause = min(2*pause, mostPause)
			s.log.Error("looking up routes failed; keeping what is advertised", "err", err, "retry_in", wait.String())
		}
		select {
		case <-time.After(wait - wait/10 + rand.N(wait/5)): // ±10 %: routers started together drift apart
		case <-ctx.Done():
			return
		}
	}
}

func (s *startup) lookUpRoutes(ctx context.Context, apply func([]netip.Prefix)) error {
	var found bootstrap.Routes
	err := s.steps.time("routes", func() (err error) {
		found, err = s.boot.Routes(ctx)
		return err
	})
	s.mu.Lock()
	s.routesErr = err
	changed := false
	if err == nil {
		changed = s.found.IsZero() || fmt.Sprint(found) != fmt.Sprint(s.routes)
		s.routes, s.found = found, time.Now()
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.lookUpPlace(ctx) // known by now; on Fargate the look-up added VPC and subnet
	if changed {
		for _, r := range found.Refused {
			s.log.Warn("route refused", "prefix", r.Prefix.String(), "reason", r.Reason)
		}
	}
	apply(found.Advertise)
	return nil
}

// known is what the look-ups found so far.
func (s *startup) known() (place bootstrap.Place, routes bootstrap.Routes, found time.Time, routesErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place, s.routes, s.found, s.routesErr
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
