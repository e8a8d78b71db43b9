package bootstrap

import (
	"context"
	"errors"
	"sync"
	"time"

	"subnetrouter/internal/credential"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// The sources of a credential, as metrics name them. Whether a secret holds an
// auth key or an OAuth client is known once it was read; until then it is
// SourceSecret.
const (
	SourceVariableKey    = "auth_key_variable"
	SourceVariableClient = "oauth_client_variable"
	SourceSecret         = "secret"
	SourceSecretKey      = "auth_key_secret"
	SourceSecretClient   = "oauth_client_secret"
	SourceFederation     = "federation"
	SourceState          = "state_only"
)

// Choice is which source a configuration leads to, and why.
type Choice struct {
	Source string // one of the Source constants
	What   string // "ROUTER_AUTH_SECRET: Secrets Manager secret router/key"
	Why    string
}

// credentialSource is where auth keys come from. Its methods are not called concurrently.
type credentialSource interface {
	choice() Choice
	// look reads all that can be read without using anything up: no key is made.
	look(ctx context.Context) error
	// key returns a key to register with, made now where the source makes keys.
	key(ctx context.Context) (key secret.String, from string, err error)
	// refused tells that control did not take the key that was returned last.
	refused()
	// known is what was read so far.
	known() Known
}

// Known is what is known of a credential.
type Known struct {
	Read    time.Time // when it was last read with success; zero is never
	Created time.Time // when what was read was stored; zero is unknown
	Expires time.Time // when what is stored ends; zero is unknown or never
	Version string    // of the secret; "" is none
	Err     error     // why it could not be read the last time
}

// ErrNone says that the configuration names no credential.
var ErrNone = errors.New("none is named")

// ErrMalformed is in the chain of an error about a source that was read and
// holds no credential; ErrEmpty, if it holds nothing at all.
var (
	ErrMalformed = credential.ErrMalformed
	ErrEmpty     = credential.ErrEmpty
)

// keyLife is the life of a key that is made for a registration that follows at
// once: long enough for a slow control server, and too short to be worth stealing.
const keyLife = 10 * time.Minute

// credentials guards the source: one caller at a time, who may give up.
type credentials struct {
	turn   chan struct{}
	source credentialSource

	mu    sync.Mutex
	known Known
	now   Choice
}

func newCredentials(b *Bootstrap) *credentials {
	c := &credentials{turn: make(chan struct{}, 1)}
	switch {
	case b.config.AuthKey != "":
		c.source = newLiteralSource(b)
	case b.config.SecretID != "":
		c.source = &secretSource{b: b, minters: map[secret.String]*minter{}}
	case b.config.ClientID != "":
		c.source = newFederationSource(b)
	default:
		c.source = stateSource{}
	}
	c.now = c.source.choice()
	return c
}

// use gives f the source, and keeps what is known after it.
func (c *credentials) use(ctx context.Context, f func(credentialSource)) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f(c.source)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.now = c.source.known(), c.source.choice()
	return nil
}

// CredentialChoice is which source is used, and why. It asks nothing.
func (b *Bootstrap) CredentialChoice() Choice {
	b.credentials.mu.Lock()
	defer b.credentials.mu.Unlock()
	return b.credentials.now
}

// CredentialKnown is what the last look found. It asks nothing.
func (b *Bootstrap) CredentialKnown() Known {
	b.credentials.mu.Lock()
	defer b.credentials.mu.Unlock()
	return b.credentials.known
}

// Credential returns an auth key to register with and says where it is from:
// "TS_AUTHKEY", or the secret with its version, and "OAuth client …" or
// "federated identity …" if it was made for the occasion. It asks at every call,
// so that a rotated secret is seen; a secret that [Bootstrap.LookAtCredential]
// read a moment ago is not read again. A key that is made is good for one node
// and ten minutes: ask for it only to use it. No error contains a credential.
func (b *Bootstrap) Credential(ctx context.Context) (key secret.String, from string, err error) {
	if busy := b.credentials.use(ctx, func(s credentialSource) { key, from, err = s.key(ctx) }); busy != nil {
		return "", "", busy
	}
	return key, from, err
}

// CredentialRefused tells that control did not take the key that
// [Bootstrap.Credential] returned last. After AWSCURRENT, AWSPENDING gets its
// turn, unless the configuration names a version.
func (b *Bootstrap) CredentialRefused() {
	b.credentials.use(context.Background(), func(s credentialSource) { s.refused() })
}

// LookAtCredential reads the credential without using it, so that one that
// cannot be read is known before it is needed. It makes no key.
func (b *Bootstrap) LookAtCredential(ctx context.Context) (err error) {
	if busy := b.credentials.use(ctx, func(s credentialSource) { err = s.look(ctx) }); busy != nil {
		return busy
	}
	return err
}

// stateSource is the node's own state alone: what no credential is needed for,
// until control asks for one.
type stateSource struct{}

func (stateSource) choice() Choice {
	return Choice{SourceState, "the node's own state", "no credential is configured, and ROUTER_STATE keeps the node's keys"}
}
func (stateSource) look(context.Context) error { return nil }
func (stateSource) key(context.Context) (secret.String, string, error) {
	return "", "", &problem.Problem{
		Code: problem.CredentialMissing, Message: "finding a credential: " + ErrNone.Error(), Err: ErrNone,
		Fix: "set ROUTER_AUTH_SECRET to a Secrets Manager name or ARN, TS_AUTHKEY to an auth key, or TS_CLIENT_ID and TS_AUDIENCE",
	}
}
func (stateSource) refused()     {}
func (stateSource) known() Known { return Known{} }
