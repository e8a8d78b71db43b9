package credential

import (
	"context"
	"errors"

	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tsapi"
)

// minting is how keys are made.
type minting struct {
	api  *tsapi.Client
	want tsapi.KeyRequest
}

// minting returns how keys are made: as the configuration has it, or as the
// attributes of an OAuth client do.
func (c Config) minting(a payload.Attributes) (minting, error) {
	url, err := a.API(c.APIURL)
	if err != nil {
		return minting{}, err
	}
	want := tsapi.KeyRequest{Tags: c.Tags, Ephemeral: c.Ephemeral, Preauthorized: true, Expiry: keyLife}
	if a.Ephemeral != nil {
		want.Ephemeral = *a.Ephemeral
	}
	if a.Preauthorized != nil {
		want.Preauthorized = *a.Preauthorized
	}
	api := tsapi.New(tsapi.Config{URL: url, Transport: c.Transport, Called: c.APICalled})
	return minting{api, want}, nil
}

// newMinter returns the minter of an OAuth client.
func (c Config) newMinter(client *payload.Client) (*minter, error) {
	how, err := c.minting(client.Attributes)
	if err != nil {
		return nil, err
	}
	return &minter{minting: how, grant: func(ctx context.Context) (tsapi.Token, error) {
		return how.api.ClientToken(ctx, client.ID, client.Secret)
	}}, nil
}

// minter makes auth keys for one OAuth client or federated identity. Its access
// token is kept while it lives, an hour: a router that fails to join asks for no
// more tokens than one that has joined.
type minter struct {
	minting
	grant func(context.Context) (tsapi.Token, error)
	token tsapi.Token
}

// ready gets a token, unless there is one that lives.
func (m *minter) ready(ctx context.Context) error {
	if m.token.Valid() {
		return nil
	}
	token, err := m.grant(ctx)
	if err == nil {
		m.token = token
	}
	return err
}

// key makes a key. A kept token may have been revoked since: then a new one is
// tried once.
func (m *minter) key(ctx context.Context) (secret.String, error) {
	kept := m.token.Valid()
	if err := m.ready(ctx); err != nil {
		return "", err
	}
	key, err := m.api.CreateKey(ctx, m.token, m.want)
	if refusal(err) {
		m.token = tsapi.Token{}
		if kept {
			return m.key(ctx)
		}
	}
	return key.Value, err
}

// refusal reports whether the API refused the client or identity itself.
func refusal(err error) bool {
	return errors.Is(err, tsapi.ErrRefused)
}
