// Package credential gets auth keys from the configured source: a literal, a stored secret or
// parameter, or workload identity federation (one file per kind of credential source, all
// registered in kinds).
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

// The credential sources, by their names in metrics. A stored secret is FromSecret, and a
// parameter FromParameter, until the first read shows whether it holds an auth key or an OAuth
// client.
const (
	FromVariableKey     = "auth_key_variable"
	FromVariableClient  = "oauth_client_variable"
	FromSecret          = "secret"
	FromSecretKey       = "auth_key_secret"
	FromSecretClient    = "oauth_client_secret"
	FromParameter       = "parameter"
	FromParameterKey    = "auth_key_parameter"
	FromParameterClient = "oauth_client_parameter"
	FromFederation      = "federation"
	FromState           = "state_only"
)

// Choice describes the source that a configuration selects, and the reason.
type Choice struct {
	Source string // one of the From constants
	What   string // "ROUTER_AUTH_SECRET: Secrets Manager secret router/key"
	Why    string
}

// Known is the status of a credential after the last call of [Provider.Key] or
// [Provider.Look].
type Known struct {
	Read    time.Time // of the last successful read; zero means never
	Created time.Time // of the version; zero means unknown
	Expires time.Time // of the stored credential; zero means unknown or never
	Version string    // of the secret or parameter; "" means none
	Err     error     // of the last call; nil if it succeeded
}

// ErrMalformed is in the chain of an error about a source that was read and
// contains no credential, ErrEmpty in that about an empty one.
var (
	ErrMalformed = payload.ErrMalformed
	ErrEmpty     = payload.ErrEmpty
)

// keyLife is the lifetime of a minted key, which is used for one registration right away:
// long enough for a slow control server, and too short to be worth stealing.
const keyLife = 10 * time.Minute

// Config describes a [Provider].
type Config struct {
	Settings
	Place *place.Finder // for AWS calls
	// ControlURL is the control server, which determines the accepted forms of a key; ""
	// means Tailscale's.
	ControlURL string
	// Ephemeral reports that minted keys are for a node that control removes when it
	// goes offline.
	Ephemeral bool
	// Transport carries calls of Tailscale's API; nil means the network.
	Transport http.RoundTripper
	// APICalled is called after each call of Tailscale's API: see tsapi.Config.
	APICalled func(call string, err error)
}

// Provider returns auth keys. It is safe for concurrent use: Key, Look and Refused run one
// at a time, each waiting for the one before; Choice and Known never wait for a call to AWS
// or to Tailscale's API.
type Provider struct {
	// inUse is a semaphore of one: full while a caller uses source. It covers source and
	// every field of the source's type, none of which has a lock of its own. It is a
	// channel, so that a caller can stop waiting when its context ends.
	inUse  chan struct{}
	source source

	// mu covers the fields below: copies of the source's status and choice, taken while
	// inUse is still held. It is never held during a call.
	mu     sync.Mutex
	status Known
	choice Choice
}

// New returns a Provider for the source that the settings select. It reads nothing.
func New(c Config) *Provider {
	secret.Remember(c.AuthKey.Reveal())
	p := &Provider{inUse: make(chan struct{}, 1), source: c.kind().open(c)}
	p.choice = p.source.choice()
	return p
}

// use calls f with the source, one caller at a time, and then updates the status and the
// choice. It returns an error, without calling f, only if ctx ends first.
func (p *Provider) use(ctx context.Context, f func(source)) error {
	select {
	case p.inUse <- struct{}{}:
		defer func() { <-p.inUse }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f(p.source)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.choice = p.source.status(), p.source.choice()
	return nil
}

// Choice returns the source in use, and the reason. It reads nothing.
func (p *Provider) Choice() Choice {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.choice
}

// Known returns the status after the last call of Key or Look. It reads nothing.
func (p *Provider) Known() Known {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Key returns an auth key to register with, and its origin: "TS_AUTHKEY" or the secret with
// its version, with "OAuth client …" or "federated identity …" for a minted key.
//
// Each call reads the source, so that a rotated credential is seen, except for one that
// [Provider.Look] read within the last 30 s. Each call to a source with a client mints a new
// key, never returning an earlier one: it works for one registration within ten minutes, so
// callers ask for it only to use it. No error contains a credential.
func (p *Provider) Key(ctx context.Context) (key secret.String, from string, err error) {
	if busy := p.use(ctx, func(s source) { key, from, err = s.key(ctx) }); busy != nil {
		return "", "", busy
	}
	return key, from, err
}

// Refused reports that control refused the key that the last call of [Provider.Key]
// returned. Only the goroutine that calls Key may call it, as a Key in between would change
// the key that is meant. A refused AWSCURRENT makes the next call try AWSPENDING, unless the
// configuration names a version.
func (p *Provider) Refused() {
	p.use(context.Background(), func(s source) { s.refused() })
}

// Look reads the credential without using it, so that a failure is reported before a key
// is needed. It mints no key.
func (p *Provider) Look(ctx context.Context) (err error) {
	if busy := p.use(ctx, func(s source) { err = s.look(ctx) }); busy != nil {
		return busy
	}
	return err
}
