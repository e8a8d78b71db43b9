package bootstrap

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/internal/secret"
)

// literalSource is TS_AUTHKEY: an auth key, or an OAuth client that makes one.
type literalSource struct {
	stored stored
	err    error   // why it is neither
	minter *minter // nil for an auth key
	read   time.Time
}

func newLiteralSource(value secret.String, mint minting) *literalSource {
	s := &literalSource{read: time.Now()}
	s.stored, s.err = parsePlain(value.Reveal())
	if c := s.stored.client; c != nil {
		s.minter = c.minter(mint)
	}
	return s
}

func (s *literalSource) choice() Choice {
	if s.minter == nil {
		return Choice{SourceVariableKey, "TS_AUTHKEY: a literal auth key", "TS_AUTHKEY is set"}
	}
	return Choice{SourceVariableClient, "TS_AUTHKEY: the OAuth client " + s.stored.client.id, "TS_AUTHKEY is set to an OAuth client secret; a key is made when control asks for one"}
}

func (s *literalSource) look(ctx context.Context) error {
	if s.err != nil || s.minter == nil {
		return s.failed(s.err)
	}
	return s.failed(s.minter.ready(ctx))
}

func (s *literalSource) key(ctx context.Context) (secret.String, string, error) {
	if s.err != nil || s.minter == nil {
		return s.stored.key, "TS_AUTHKEY", s.failed(s.err)
	}
	key, err := s.minter.key(ctx)
	return key, "TS_AUTHKEY (OAuth client " + s.stored.client.id + ")", s.failed(err)
}

func (s *literalSource) failed(err error) error {
	if err != nil {
		err = fmt.Errorf("using TS_AUTHKEY: %w", err)
	}
	return err
}

func (s *literalSource) refused() {}

func (s *literalSource) known() Known { return Known{Read: s.read} }
