package credential

import (
	"context"

	"subnetrouter/internal/tsapi"
)

// SplitDNS returns the split DNS of the tailnet: see [tsapi.Client.SplitDNS]. Its error is
// [ErrNoClient] if the credential is an auth key.
func (p *Provider) SplitDNS(ctx context.Context) (table tsapi.SplitDNS, err error) {
	err = p.Call(ctx, func(api *tsapi.Client, token tsapi.Token) error {
		table, err = api.SplitDNS(ctx, token)
		return err
	})
	return table, err
}

// SplitDNSWithOptions returns the split DNS with the options of nameservers: see
// [tsapi.Client.SplitDNSWithOptions].
func (p *Provider) SplitDNSWithOptions(ctx context.Context) (table tsapi.SplitDNS, err error) {
	err = p.Call(ctx, func(api *tsapi.Client, token tsapi.Token) error {
		table, err = api.SplitDNSWithOptions(ctx, token)
		return err
	})
	return table, err
}

// PatchSplitDNS changes the split DNS of the tailnet: see [tsapi.Client.PatchSplitDNS].
func (p *Provider) PatchSplitDNS(ctx context.Context, change tsapi.SplitDNS) error {
	return p.Call(ctx, func(api *tsapi.Client, token tsapi.Token) error {
		return api.PatchSplitDNS(ctx, token, change)
	})
}

// Call calls f with the API of the OAuth client or federated identity and an access token. It
// reads the source, and gets a token if there is none, while it holds inUse; it does not hold
// it during f, so that a slow call does not delay an auth key. If the API refuses a token from
// an earlier call, which may have been revoked since, Call tries once more with a new one.
func (p *Provider) Call(ctx context.Context, f func(*tsapi.Client, tsapi.Token) error) error {
	for {
		m, token, kept, err := p.client(ctx)
		if err != nil {
			return err
		}
		err = f(m.api, token)
		if !refusal(err) {
			return err
		}
		busy := p.use(ctx, func(source) {
			if m.token == token {
				m.token = tsapi.Token{}
			}
		})
		if busy != nil || !kept {
			return err
		}
	}
}

// client returns the minter of the source's client with a valid token, and whether the token is
// from an earlier call.
func (p *Provider) client(ctx context.Context) (m *minter, token tsapi.Token, kept bool, err error) {
	busy := p.use(ctx, func(s source) {
		if m, err = s.apiClient(ctx); err != nil {
			return
		}
		if m == nil {
			err = ErrNoClient
			return
		}
		kept = m.token.Valid()
		err = m.ensureToken(ctx)
		token = m.token
	})
	if busy != nil {
		return nil, tsapi.Token{}, false, busy
	}
	return m, token, kept, err
}
