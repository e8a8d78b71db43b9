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

// secretSource is a secret in Secrets Manager. The secret is read again for each
// key, so that a rotation is seen at the next attempt; and when AWSCURRENT is
// refused, AWSPENDING is tried: a rotation may be half way.
type secretSource struct {
	config  Config
	minters map[secret.String]*minter // by client secret and attributes
	state   Known
	kind    string // "" until it was read
	client  string // the OAuth client, for people; "" is none

	early reading // by look, for a key that is asked for next

	// The versions that were refused, by control or by the API.
	refusedCurrent, refusedPending string
	gave                           awsapi.SecretValue // what the last key came from
	gavePending                    bool
}

// reading is the outcome of reading the secret.
type reading struct {
	value awsapi.SecretValue
	err   error
	at    time.Time
}

// fresh is how long a reading is good enough for a key: the engine comes up meanwhile.
const fresh = 30 * time.Second

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

func (s *secretSource) known() Known { return s.state }

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

// parse reads the credential in the secret.
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

// minterOf keeps the minter of a client, and with it its access token. Minters of
// other secrets are dropped: there are two at most, AWSCURRENT's and AWSPENDING's.
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
	s.early = reading{value, err, time.Now()}
	if err == nil {
		err = s.examine(ctx, ref, value)
	}
	s.state.Err = err
	return err
}

// examine notes the contents of a reading, and gets an access token where one is needed.
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
	if err := minter.ready(ctx); err != nil {
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
	early := s.early
	s.early = reading{} // for one key only
	if time.Since(early.at) > fresh {
		early.value, early.err = s.read(ctx, s.ref())
	}
	current, err := early.value, early.err
	if err != nil {
		return "", "", err
	}
	s.state.Read, s.state.Created, s.state.Version = time.Now(), current.Created, current.VersionID
	if s.pinned() {
		return s.from(ctx, s.ref(), current)
	}
	if current.VersionID != s.refusedCurrent {
		s.gave, s.gavePending = current, false
		key, from, err = s.from(ctx, s.ref(), current)
		if !refusal(err) {
			return key, from, err
		}
		s.refusedCurrent = current.VersionID
	}
	pending, missing := s.read(ctx, s.pending())
	if missing == nil && pending.VersionID != current.VersionID && pending.VersionID != s.refusedPending {
		s.gave, s.gavePending = pending, true
		key, from, pendingErr := s.from(ctx, s.pending(), pending)
		if pendingErr == nil {
			return key, from, nil
		}
		if refusal(pendingErr) {
			s.refusedPending = pending.VersionID
		}
		err = errors.Join(err, pendingErr)
	}
	if err == nil {
		// Both were tried. A refusal may not be final, so start over.
		s.refusedCurrent, s.refusedPending = "", ""
		s.gave, s.gavePending = current, false
		return s.from(ctx, s.ref(), current)
	}
	return "", "", err
}

// from makes a key of one version of the secret.
func (s *secretSource) from(ctx context.Context, ref awsapi.SecretRef, value awsapi.SecretValue) (secret.String, string, error) {
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

// refused has the other stage tried next.
func (s *secretSource) refused() {
	if s.gavePending {
		s.refusedPending = s.gave.VersionID
	} else {
		s.refusedCurrent = s.gave.VersionID
	}
}
