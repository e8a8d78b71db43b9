package bootstrap

import (
	"context"
	"errors"

	"subnetrouter/internal/credential"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tsapi"
)

// minting is how keys are made, whoever asks.
type minting struct {
	api  *tsapi.Client
	want tsapi.KeyRequest
}

// minting returns how keys are made: as the configuration has it, or as the
// attributes of an OAuth client do.
func (b *Bootstrap) minting(a credential.Attributes) (minting, error) {
	url, err := a.API(b.config.APIURL)
	if err != nil {
		return minting{}, err
	}
	want := tsapi.KeyRequest{Tags: b.config.Tags, Ephemeral: b.config.Ephemeral, Preauthorized: true, Expiry: keyLife}
	if a.Ephemeral != nil {
		want.Ephemeral = *a.Ephemeral
	}
	if a.Preauthorized != nil {
		want.Preauthorized = *a.Preauthorized
	}
	api := tsapi.New(tsapi.Config{URL: url, Transport: b.config.Transport, Called: b.config.APICalled})
	return minting{api, want}, nil
}

// newMinter returns the minter of an OAuth client.
func (b *Bootstrap) newMinter(c *credential.Client) (*minter, error) {
	how, err := b.minting(c.Attributes)
	if err != nil {
		return nil, err
	}
	return &minter{minting: how, grant: func(ctx context.Context) (tsapi.Token, error) {
		return how.api.ClientToken(ctx, c.ID, c.Secret)
	}}, nil
}

// minter makes auth keys for one OAuth client or federated identity. Its access
// token is kept while it lives, an hour: a router whose joining fails asks for
// no more tokens than one that has joined.
type minter struct {
	minting
	grant func(context.Context) (tsapi.Token, error)
	token tsapi.Token
}

// ready gets a token, if there is none that lives.
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

// key makes a key. A token that was kept may have been revoked since: then a
// new one gets one try.
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
