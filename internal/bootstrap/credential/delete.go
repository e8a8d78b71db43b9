package credential

import (
	"context"
	"errors"
)

// ErrNoClient is the error of [Provider.DeleteNode] with a credential that is no client of
// Tailscale's API.
var ErrNoClient = errors.New("an auth key cannot remove nodes")

// IsKey reports whether the credential is known to be an auth key.
func (p *Provider) IsKey() bool {
	switch p.Choice().Source {
	case FromVariableKey, FromSecretKey, FromParameterKey:
		return true
	}
	return false
}

// DeleteNode removes a node from the tailnet with the API of the OAuth client or federated
// identity, which needs the scope devices:core. id is the node's stable ID.
func (p *Provider) DeleteNode(ctx context.Context, id string) (err error) {
	busy := p.use(ctx, func(s source) {
		var m *minter
		if m, err = s.apiClient(ctx); err != nil {
			return
		}
		if m == nil {
			err = ErrNoClient
			return
		}
		if err = m.ensureToken(ctx); err == nil {
			err = m.api.DeleteDevice(ctx, m.token, id)
		}
	})
	if busy != nil {
		return busy
	}
	return err
}

func (s *literalSource) apiClient(context.Context) (*minter, error)    { return s.minter, s.err }
func (s *federationSource) apiClient(context.Context) (*minter, error) { return s.minter, nil }
func (stateSource) apiClient(context.Context) (*minter, error)         { return nil, nil }

func (s *secretSource) apiClient(ctx context.Context) (*minter, error) {
	value, err := s.read(ctx, s.ref())
	if err != nil {
		return nil, err
	}
	return s.clientIn(s.version(s.ref(), value))
}

func (s *parameterSource) apiClient(ctx context.Context) (*minter, error) {
	now := s.read(ctx)
	if now.err != nil {
		return nil, now.err
	}
	return s.clientIn(s.version(now.value))
}

// clientIn returns the minter of the client in a stored credential; nil if it is a key.
func (h *holder) clientIn(v version) (*minter, error) {
	found, err := h.parse(v)
	if err != nil || found.Client == nil {
		return nil, err
	}
	return h.minterOf(v, found.Client)
}
