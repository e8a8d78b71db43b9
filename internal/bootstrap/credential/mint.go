package credential

import (
	"context"
	"errors"

	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tsapi"
)

// minting holds the API and the request with which keys are minted.
type minting struct {
	api  *tsapi.Client
	want tsapi.KeyRequest
}

// minting returns the minting of the configuration, in which the attributes of an OAuth
// client take precedence.
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

// newMinter returns a minter for an OAuth client.
func (c Config) newMinter(client *payload.Client) (*minter, error) {
	how, err := c.minting(client.Attributes)
	if err != nil {
		return nil, err
	}
	return &minter{minting: how, grant: func(ctx context.Context) (tsapi.Token, error) {
		return how.api.ClientToken(ctx, client.ID, client.Secret)
	}}, nil
}

// minter mints auth keys for one OAuth client or federated identity. It reuses the access
// token for its lifetime, an hour, so that a router that fails to join requests no more
// tokens than one that has joined; it never reuses a key. Callers hold Provider.inUse.
type minter struct {
	minting
	grant func(context.Context) (tsapi.Token, error)
	token tsapi.Token // zero before the first grant and after the API refused it
}

// ensureToken gets a token, unless the current one is still valid.
func (m *minter) ensureToken(ctx context.Context) error {
	if m.token.Valid() {
		return nil
	}
	token, err := m.grant(ctx)
	if err == nil {
		m.token = token
	}
	return err
}

// key mints a key. If the API refuses a token from an earlier call, which may have been
// revoked since, key tries once more with a new token.
func (m *minter) key(ctx context.Context) (secret.String, error) {
	kept := m.token.Valid()
	if err := m.ensureToken(ctx); err != nil {
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

// refusal reports whether err means that the API refused the client or identity itself.
func refusal(err error) bool {
	return errors.Is(err, tsapi.ErrRefused)
}
