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

// credentials gives out auth keys when control asks for one, and watches over
// what they come from.
type credentials struct {
	boot       *bootstrap.Bootstrap
	log        *slog.Logger
	steps      *stepMetrics
	prefetched chan struct{} // closed when what is read ahead was read
}

// readAhead reads the credential while the engine comes up, for a node that is
// sure to be asked for one. It makes no key: control may yet not ask.
func (c *credentials) prefetch(ctx context.Context, wanted bool) {
	if !wanted {
		close(c.prefetched)
		return
	}
	go func() {
		defer close(c.prefetched)
		c.check(ctx) // its failure is the next key's, too
	}()
}

// key is called when control asks for a credential.
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

func (c *credentials) check(ctx context.Context) error {
	return c.steps.time("credential", func() error { return c.boot.LookAtCredential(ctx) })
}

// keep looks at the credential every now and then, so that one that is gone is
// known before a new task, or this one, needs it. It looks nowhere right after a
// start: a node with valid state needs no credential.
func (c *credentials) watch(ctx context.Context, every time.Duration) error {
	for {
		select {
		case <-time.After(backoff.Jitter(every, backoff.Interval)):
		case <-ctx.Done():
			return nil
		}
		before := c.boot.CredentialKnown()
		if time.Since(before.Read) < every/2 {
			continue // whoever joins reads it all the time
		}
		err := c.check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		after := c.boot.CredentialKnown()
		switch {
		case err != nil && (before.Err == nil || before.Err.Error() != err.Error()):
			c.log.Warn("credential cannot be used; this node needs none while it is in the tailnet, the next one will", "err", err)
		case err == nil && before.Err != nil:
			c.log.Info("credential can be used again")
		}
		if before.Version != "" && after.Version != before.Version {
			c.log.Info("credential rotated", "version", after.Version, "created", after.Created.UTC().Format(time.RFC3339))
		}
	}
}

// register adds what is known of the credential to the metrics.
func (c *credentials) register(reg prometheus.Registerer) {
	known := func(name, help string, at func(credential.Known) time.Time) prometheus.Collector {
		return gauge(name, help, func() float64 { return timestamp(at(c.boot.CredentialKnown())) })
	}
	reg.MustRegister(
		known("router_credential_fetch_timestamp_seconds", "When the credential was last read with success; 0 is never.", func(k credential.Known) time.Time { return k.Read }),
		known("router_credential_created_timestamp_seconds", "When what was read was stored; 0 is unknown.", func(k credential.Known) time.Time { return k.Created }),
		known("router_credential_expiry_timestamp_seconds", "When the stored credential ends, as far as its expires_at tells; 0 is unknown or never.", func(k credential.Known) time.Time { return k.Expires }),
		credentialInfo{c.boot},
	)
}

// credentialInfo is router_credential_info: its label changes once a secret was read.
type credentialInfo struct{ boot *bootstrap.Bootstrap }

var credentialInfoDesc = prometheus.NewDesc("router_credential_info", "Always 1; its label says where auth keys come from.", []string{"source"}, nil)

func (i credentialInfo) Describe(to chan<- *prometheus.Desc) { to <- credentialInfoDesc }

func (i credentialInfo) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(credentialInfoDesc, prometheus.GaugeValue, 1, i.boot.CredentialChoice().Source)
}
