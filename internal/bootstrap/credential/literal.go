package credential

import (
	"context"
	"time"

	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

var literal = &Kind{
	Setting: "TS_AUTHKEY",
	Advice:  "TS_AUTHKEY to an auth key",
	Labels:  []string{FromVariableKey, FromVariableClient},
	named:   func(s Settings) bool { return s.AuthKey != "" },
	open:    func(c Config) source { return newLiteralSource(c) },
}

// literalSource reads TS_AUTHKEY: an auth key, returned by each call, or the secret of an
// OAuth client, which mints a new key for each call. Its fields are set once; only the
// minter changes.
type literalSource struct {
	stored payload.Credential
	err    error     // of parsing the value
	minter *minter   // nil for an auth key
	read   time.Time // when the value was parsed
}

func newLiteralSource(c Config) *literalSource {
	s := &literalSource{read: time.Now()}
	s.stored, s.err = payload.ParseLiteral(c.AuthKey.Reveal(), payload.Foreign(c.ControlURL))
	if client := s.stored.Client; client != nil {
		s.minter, s.err = c.newMinter(client)
	}
	return s
}

func (s *literalSource) choice() Choice {
	c := s.stored.Client
	if c == nil {
		return Choice{FromVariableKey, "TS_AUTHKEY: a literal auth key", "TS_AUTHKEY is set"}
	}
	return Choice{FromVariableClient, "TS_AUTHKEY: the " + describeClient(c), "TS_AUTHKEY is set to an OAuth client secret; a key is made when control asks for one"}
}

// describeClient returns the name of an OAuth client with its attributes, for people.
func describeClient(c *payload.Client) string {
	s := "OAuth client " + c.ID
	if a := c.Attributes.String(); a != "" {
		s += " (" + a + ")"
	}
	return s
}

func (s *literalSource) look(ctx context.Context) error {
	if s.err != nil || s.minter == nil {
		return s.failed(s.err)
	}
	return s.failed(s.minter.ensureToken(ctx))
}

func (s *literalSource) key(ctx context.Context) (secret.String, string, error) {
	if s.err != nil || s.minter == nil {
		return s.stored.Key, "TS_AUTHKEY", s.failed(s.err)
	}
	key, err := s.minter.key(ctx)
	return key, "TS_AUTHKEY (OAuth client " + s.stored.Client.ID + ")", s.failed(err)
}

func (s *literalSource) failed(err error) error {
	return problem.Wrapf(err, "using TS_AUTHKEY")
}

func (s *literalSource) refused() {}

func (s *literalSource) status() Known { return Known{Read: s.read} }
