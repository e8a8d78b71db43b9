package router

import (
	"context"
	"log/slog"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
)

// credentials provides auth keys when control asks for one, and checks their source
// periodically.
type credentials struct {
	boot       *bootstrap.Bootstrap
	log        *slog.Logger
	steps      *stepMetrics
	prefetched chan struct{} // closed when prefetch is done
}

// prefetch reads the credential while the engine starts, for a node that certainly needs
// one. It mints no key: the node may stop before control asks for it.
func (c *credentials) prefetch(ctx context.Context, wanted bool) {
	if !wanted {
		close(c.prefetched)
		return
	}
	go func() {
		defer close(c.prefetched)
		c.check(ctx) // a failure shows again when control asks for a key
	}()
}

// key returns an auth key. The engine calls it when control asks for a credential.
func (c *credentials) key(ctx context.Context) (key secret.String, err error) {
	select {
	case <-c.prefetched:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	err = c.steps.time("credential", func() error {
		var from string
		if key, from, err = c.boot.Credential(ctx); err == nil {
			c.log.Info("credential read", "source", from)
		}
		return err
	})
	return key, err
}

// check reads and validates the credential without minting a key.
func (c *credentials) check(ctx context.Context) error {
	return c.steps.time("credential", func() error { return c.boot.LookAtCredential(ctx) })
}

// watch checks the credential periodically, so that a missing one is reported before a new
// task, or this one, needs it. It does not check right after a start: a node with valid
// state needs no credential.
func (c *credentials) watch(ctx context.Context, every time.Duration) error {
	for {
		if !backoff.Sleep(ctx, backoff.Jitter(every, backoff.Interval)) {
			return nil
		}
		before := c.boot.CredentialKnown()
		if time.Since(before.Read) < every/2 {
			continue // a node that is joining reads it often enough
		}
		err := c.check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		after := c.boot.CredentialKnown()
		switch {
		case err != nil && (before.Err == nil || before.Err.Error() != err.Error()):
			c.log.Warn("credential cannot be used; this node stays in the tailnet, but a new one could not join", "err", err)
		case err == nil && before.Err != nil:
			c.log.Info("credential is usable again")
		}
		if before.Version != "" && after.Version != before.Version {
			c.log.Info("credential rotated", "version", after.Version, "created", after.Created.UTC().Format(time.RFC3339))
		}
	}
}

// register adds the metrics of the credential.
func (c *credentials) register(reg prometheus.Registerer) {
	known := func(name, help string, at func(credential.Known) time.Time) prometheus.Collector {
		return gauge(name, help, func() float64 { return timestamp(at(c.boot.CredentialKnown())) })
	}
	reg.MustRegister(
		known("router_credential_fetch_timestamp_seconds", "Time of the last successful read of the credential; 0 is never.", func(k credential.Known) time.Time { return k.Read }),
		known("router_credential_created_timestamp_seconds", "Time at which the credential was stored; 0 is unknown.", func(k credential.Known) time.Time { return k.Created }),
		known("router_credential_expiry_timestamp_seconds", "Expiry of the stored credential, from its expires_at; 0 is unknown or never.", func(k credential.Known) time.Time { return k.Expires }),
		credentialInfo{c.boot},
	)
}

// credentialInfo collects router_credential_info, whose label changes once a secret is read.
type credentialInfo struct{ boot *bootstrap.Bootstrap }

var credentialInfoDesc = prometheus.NewDesc("router_credential_info", "Always 1; the label names the source of auth keys.", []string{"source"}, nil)

func (i credentialInfo) Describe(to chan<- *prometheus.Desc) { to <- credentialInfoDesc }

func (i credentialInfo) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(credentialInfoDesc, prometheus.GaugeValue, 1, i.boot.CredentialChoice().Source)
}
