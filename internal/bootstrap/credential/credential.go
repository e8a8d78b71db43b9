// Package credential gets auth keys from the source that the configuration names:
// a literal, a stored secret, or workload identity federation (one file per kind of
// credential source, all registered in kinds).
package credential

import (
	"context"
	"net/http"
	"sync"
	"time"

	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/secret"
)

// The sources of a credential, as metrics name them. Whether a secret holds an
// auth key or an OAuth client is known once it was read; until then it is
// FromSecret.
const (
	FromVariableKey    = "auth_key_variable"
	FromVariableClient = "oauth_client_variable"
	FromSecret         = "secret"
	FromSecretKey      = "auth_key_secret"
	FromSecretClient   = "oauth_client_secret"
	FromFederation     = "federation"
	FromState          = "state_only"
)

// Choice is the source that a configuration leads to, and why.
type Choice struct {
	Source string // one of the From constants
	What   string // "ROUTER_AUTH_SECRET: Secrets Manager secret router/key"
	Why    string
}

// Known is what is known of a credential.
type Known struct {
	Read    time.Time // when it was last read with success; zero is never
	Created time.Time // when it was stored; zero is unknown
	Expires time.Time // when the stored credential ends; zero is unknown or never
	Version string    // of the secret; "" is none
	Err     error     // why it could not be read the last time
}

// ErrMalformed is in the chain of an error about a source that was read and
// holds no credential; ErrEmpty, if it holds nothing at all.
var (
	ErrMalformed = payload.ErrMalformed
	ErrEmpty     = payload.ErrEmpty
)

// keyLife is the life of a minted key, which a registration uses at once: long
// enough for a slow control server, and too short to be worth stealing.
const keyLife = 10 * time.Minute

// Config describes a [Provider].
type Config struct {
	Settings
	Place *place.Finder // for AWS calls
	// ControlURL is the control server, which decides what a key may look like; "" is
	// Tailscale's.
	ControlURL string
	// Ephemeral reports that minted keys are for a node that vanishes when it goes
	// offline.
	Ephemeral bool
	// Transport carries calls of Tailscale's API; nil is the network.
	Transport http.RoundTripper
	// APICalled gets every call of Tailscale's API: see tsapi.Config.
	APICalled func(call string, err error)
}

// Provider gives auth keys. It is safe for concurrent use.
type Provider struct {
	turn   chan struct{} // held by the caller that uses source
	source source

	mu    sync.Mutex // guards the fields below
	known Known
	now   Choice
}

// New returns a Provider of the source that the settings name. It reads nothing.
func New(c Config) *Provider {
	secret.Remember(c.AuthKey.Reveal())
	p := &Provider{turn: make(chan struct{}, 1), source: c.kind().open(c)}
	p.now = p.source.choice()
	return p
}

// use calls f with the source, one caller at a time, and keeps what is known after it.
func (p *Provider) use(ctx context.Context, f func(source)) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f(p.source)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known, p.now = p.source.known(), p.source.choice()
	return nil
}

// Choice returns which source is used, and why. It reads nothing.
func (p *Provider) Choice() Choice {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Known returns what the last look found. It reads nothing.
func (p *Provider) Known() Known {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known
}

// Key returns an auth key to register with and where it is from: "TS_AUTHKEY", or
// the secret with its version, and "OAuth client …" or "federated identity …" if
// it was minted. Each call reads the source, so that a rotated secret is seen; a
// secret that [Provider.Look] read a moment ago is not read again. A minted key is
// good for one node and ten minutes: ask for it only to use it. No error contains
// a credential.
func (p *Provider) Key(ctx context.Context) (key secret.String, from string, err error) {
	if busy := p.use(ctx, func(s source) { key, from, err = s.key(ctx) }); busy != nil {
		return "", "", busy
	}
	return key, from, err
}

// Refused reports that control refused the key that [Provider.Key] returned last.
// After AWSCURRENT, AWSPENDING is tried, unless the configuration names a version.
func (p *Provider) Refused() {
	p.use(context.Background(), func(s source) { s.refused() })
}

// Look reads the credential without using it, so that one that cannot be read is
// known before it is needed. It makes no key.
func (p *Provider) Look(ctx context.Context) (err error) {
	if busy := p.use(ctx, func(s source) { err = s.look(ctx) }); busy != nil {
		return busy
	}
	return err
}
