package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

var stored = &Kind{
	Setting: "ROUTER_AUTH_SECRET",
	Advice:  "ROUTER_AUTH_SECRET to a Secrets Manager name or ARN",
	Labels:  []string{FromSecret, FromSecretKey, FromSecretClient},
	named:   func(s Settings) bool { return !s.Secret.IsZero() },
	open:    func(c Config) source { return &secretSource{config: c, minters: map[secret.String]*minter{}} },
	needs: func(s Settings) []iam.Need {
		return []iam.Need{{Action: awsapi.GetSecretValue, Allow: s.allowSecret}}
	},
}

// allowSecret allows reading the secret, and decrypting it if a key is named.
func (s Settings) allowSecret(scope iam.Scope) []iam.Statement {
	list := []iam.Statement{iam.Allow("ReadCredential", awsapi.GetSecretValue.Name, scope.Secret(s.Secret)...)}
	if scope.KMSKey != "" {
		decrypt := iam.Allow("DecryptCredential", "kms:Decrypt", scope.KMSKey)
		decrypt.Condition = scope.ViaSecretsManager(s.Secret)
		list = append(list, decrypt)
	}
	return list
}

// secretSource reads a secret in Secrets Manager, again for each key, so that the next
// attempt sees a rotation.
//
// Unless the configuration names a version, key tries the stages in this order:
//  1. AWSCURRENT, unless that version was refused.
//  2. AWSPENDING, if it is a different version that was not refused: during a rotation the
//     tailnet may already have replaced the old credential.
//  3. AWSCURRENT again, with both refusals forgotten, since a refusal may be temporary.
//
// The first stage that yields a key ends the call, and so does any failure other than the
// refusals below.
//
// A version is refused by control, which Provider.Refused reports, or by the API, which
// refuses its OAuth client; after the latter the same call tries AWSPENDING. Refusals are by
// version ID, so a rotation ends them. AWSPENDING is read only after a refusal.
type secretSource struct {
	config  Config
	minters map[secret.String]*minter // by client secret and attributes; see minterOf
	state   Known
	kind    string // FromSecretKey or FromSecretClient; "" before the first read
	client  string // description of the OAuth client; "" means none

	// prefetched is the result of the last look. The next key consumes it: it uses it if
	// it is at most prefetchTTL old, and drops it in any case.
	prefetched reading

	// The version IDs that were refused; "" means none.
	refusedCurrent, refusedPending string
	// The origin of the last key, set before each attempt; unused if a version is
	// configured.
	given        awsapi.SecretValue
	givenPending bool
}

// reading is the outcome of reading the secret.
type reading struct {
	value awsapi.SecretValue
	err   error
	at    time.Time
}

// prefetchTTL is the age up to which a reading serves a key: at start, the engine comes up
// between look and key.
const prefetchTTL = 30 * time.Second

func (s *secretSource) choice() Choice {
	what := "ROUTER_AUTH_SECRET: Secrets Manager secret " + s.ref().ID
	if key := s.ref().JSONKey; key != "" {
		what += ", JSON key " + key
	}
	c := Choice{FromSecret, what, "ROUTER_AUTH_SECRET is set"}
	switch s.kind {
	case FromSecretKey:
		c.Source, c.Why = s.kind, c.Why+" and holds an auth key"
	case FromSecretClient:
		c.Source, c.Why = s.kind, c.Why+" and holds the secret of the "+s.client+"; a key is made when control asks for one"
	}
	return c
}

func (s *secretSource) status() Known { return s.state }

// pinned reports whether the configuration names a version.
func (s *secretSource) pinned() bool {
	return s.ref().VersionStage != "" || s.ref().VersionID != ""
}

func (s *secretSource) ref() awsapi.SecretRef { return s.config.Secret }

func (s *secretSource) pending() awsapi.SecretRef {
	return awsapi.SecretRef{ID: s.ref().ID, JSONKey: s.ref().JSONKey, VersionStage: "AWSPENDING"}
}

func (s *secretSource) read(ctx context.Context, ref awsapi.SecretRef) (awsapi.SecretValue, error) {
	client, err := s.config.Place.AWS(ctx)
	if err != nil {
		return awsapi.SecretValue{}, problem.Wrapf(err, "reading the %v of ROUTER_AUTH_SECRET", ref)
	}
	value, err := client.Secret(ctx, ref)
	if err != nil {
		return awsapi.SecretValue{}, problem.Wrapf(err, "reading ROUTER_AUTH_SECRET")
	}
	return value, nil
}

// parse returns the credential in the secret.
func (s *secretSource) parse(ref awsapi.SecretRef, value awsapi.SecretValue) (payload.Credential, error) {
	found, err := payload.Parse(value.Value.Reveal(), payload.Format{
		JSONKey: ref.JSONKey, Foreign: payload.Foreign(s.config.ControlURL),
	})
	secret.Remember(found.Key.Reveal())
	if found.Client != nil {
		secret.Remember(found.Client.Secret.Reveal())
	}
	if err != nil {
		return payload.Credential{}, s.using(ref, err)
	}
	return found, nil
}

// minterOf returns the minter of a client, the same one in each call, so that its access
// token is reused. A third client drops the others: only AWSCURRENT's and AWSPENDING's are
// in use at any time.
func (s *secretSource) minterOf(ref awsapi.SecretRef, c *payload.Client) (*minter, error) {
	key := c.Secret + secret.String("?"+c.Attributes.String())
	if m := s.minters[key]; m != nil {
		return m, nil
	}
	m, err := s.config.newMinter(c)
	if err != nil {
		return nil, s.using(ref, err)
	}
	if len(s.minters) > 1 {
		clear(s.minters)
	}
	s.minters[key] = m
	return m, nil
}

func (s *secretSource) using(ref awsapi.SecretRef, err error) error {
	return problem.Wrapf(err, "using the %v of ROUTER_AUTH_SECRET", ref)
}

func (s *secretSource) look(ctx context.Context) error {
	ref := s.ref()
	value, err := s.read(ctx, ref)
	s.prefetched = reading{value, err, time.Now()}
	if err == nil {
		err = s.examine(ctx, ref, value)
	}
	s.state.Err = err
	return err
}

// examine updates the status from a reading, and gets an access token for a client.
func (s *secretSource) examine(ctx context.Context, ref awsapi.SecretRef, value awsapi.SecretValue) error {
	s.state.Read, s.state.Created, s.state.Version = time.Now(), value.Created, value.VersionID
	s.state.Expires = time.Time{}
	found, err := s.parse(ref, value)
	if err != nil {
		return err
	}
	s.note(found)
	if found.Client == nil {
		return nil
	}
	minter, err := s.minterOf(ref, found.Client)
	if err != nil {
		return err
	}
	if err := minter.ensureToken(ctx); err != nil {
		return s.using(ref, err)
	}
	return nil
}

func (s *secretSource) note(found payload.Credential) {
	s.state.Expires = found.Expires
	s.kind, s.client = FromSecretKey, ""
	if found.Client != nil {
		s.kind, s.client = FromSecretClient, describeClient(found.Client)
	}
}

func (s *secretSource) key(ctx context.Context) (key secret.String, from string, err error) {
	defer func() { s.state.Err = err }()
	early := s.prefetched
	s.prefetched = reading{} // for one key only
	if time.Since(early.at) > prefetchTTL {
		early.value, early.err = s.read(ctx, s.ref())
	}
	current, err := early.value, early.err
	if err != nil {
		return "", "", err
	}
	s.state.Read, s.state.Created, s.state.Version = time.Now(), current.Created, current.VersionID
	if s.pinned() {
		return s.keyFrom(ctx, s.ref(), current)
	}
	if current.VersionID != s.refusedCurrent {
		s.given, s.givenPending = current, false
		key, from, err = s.keyFrom(ctx, s.ref(), current)
		if !refusal(err) {
			return key, from, err
		}
		s.refusedCurrent = current.VersionID
	}
	pending, missing := s.read(ctx, s.pending())
	if missing == nil && pending.VersionID != current.VersionID && pending.VersionID != s.refusedPending {
		s.given, s.givenPending = pending, true
		key, from, pendingErr := s.keyFrom(ctx, s.pending(), pending)
		if pendingErr == nil {
			return key, from, nil
		}
		if refusal(pendingErr) {
			s.refusedPending = pending.VersionID
		}
		err = errors.Join(err, pendingErr)
	}
	if err == nil {
		// Neither is left to try. A refusal may be temporary, so start over.
		s.refusedCurrent, s.refusedPending = "", ""
		s.given, s.givenPending = current, false
		return s.keyFrom(ctx, s.ref(), current)
	}
	return "", "", err
}

// keyFrom returns the key in one version of the secret, or mints one with its client.
func (s *secretSource) keyFrom(ctx context.Context, ref awsapi.SecretRef, value awsapi.SecretValue) (secret.String, string, error) {
	found, err := s.parse(ref, value)
	if err != nil {
		return "", "", err
	}
	s.note(found)
	where := fmt.Sprintf("secret %s (version %s)", ref.ID, value.VersionID)
	if ref.VersionStage != "" && !s.pinned() {
		where = fmt.Sprintf("secret %s (%s, version %s)", ref.ID, ref.VersionStage, value.VersionID)
	}
	if found.Client == nil {
		return found.Key, where, nil
	}
	minter, err := s.minterOf(ref, found.Client)
	if err != nil {
		return "", "", err
	}
	key, err := minter.key(ctx)
	if err != nil {
		return "", "", s.using(ref, err)
	}
	return key, where + ", OAuth client " + found.Client.ID, nil
}

// refused marks the version that the last key came from, so that the next key tries the
// other stage.
func (s *secretSource) refused() {
	if s.givenPending {
		s.refusedPending = s.given.VersionID
	} else {
		s.refusedCurrent = s.given.VersionID
	}
}
