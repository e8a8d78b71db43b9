package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

var stored = &Kind{
	Setting: "ROUTER_AUTH_SECRET",
	Advice:  adviceStored,
	Labels:  []string{FromSecret, FromSecretKey, FromSecretClient},
	named:   func(s Settings) bool { return !s.Secret.IsZero() },
	open: func(c Config) source {
		return &secretSource{holder: newHolder(c, FromSecret, FromSecretKey, FromSecretClient)}
	},
	needs: func(s Settings) []iam.Need {
		return []iam.Need{{Action: awsapi.GetSecretValue, Allow: s.allowSecret}}
	},
}

// allowSecret allows reading the secret, and decrypting it if a key is named.
func (s Settings) allowSecret(scope iam.Scope) []iam.Statement {
	read := iam.Allow("ReadCredential", awsapi.GetSecretValue.Name, scope.Secret(s.Secret)...)
	return append([]iam.Statement{read}, scope.Decrypt("secretsmanager", s.Secret.ID)...)
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
	holder

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
	return s.choose("Secrets Manager secret "+s.ref().ID, s.ref().JSONKey)
}

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

func (s *secretSource) look(ctx context.Context) error {
	ref := s.ref()
	value, err := s.read(ctx, ref)
	s.prefetched = reading{value, err, time.Now()}
	if err == nil {
		err = s.examine(ctx, s.version(ref, value))
	}
	s.state.Err = err
	return err
}

// version returns a value for the holder.
func (s *secretSource) version(ref awsapi.SecretRef, v awsapi.SecretValue) version {
	where := fmt.Sprintf("secret %s (version %s)", ref.ID, v.VersionID)
	if ref.VersionStage != "" && !s.pinned() {
		where = fmt.Sprintf("secret %s (%s, version %s)", ref.ID, ref.VersionStage, v.VersionID)
	}
	return version{value: v.Value, id: v.VersionID, created: v.Created, of: ref.String(), where: where, jsonKey: ref.JSONKey}
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
	s.noteRead(s.version(s.ref(), current))
	if s.pinned() {
		return s.keyFrom(ctx, s.version(s.ref(), current))
	}
	if current.VersionID != s.refusedCurrent {
		s.given, s.givenPending = current, false
		key, from, err = s.keyFrom(ctx, s.version(s.ref(), current))
		if !refusal(err) {
			return key, from, err
		}
		s.refusedCurrent = current.VersionID
	}
	pending, missing := s.read(ctx, s.pending())
	if missing == nil && pending.VersionID != current.VersionID && pending.VersionID != s.refusedPending {
		s.given, s.givenPending = pending, true
		key, from, pendingErr := s.keyFrom(ctx, s.version(s.pending(), pending))
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
		return s.keyFrom(ctx, s.version(s.ref(), current))
	}
	return "", "", err
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
