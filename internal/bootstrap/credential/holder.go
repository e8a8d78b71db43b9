package credential

import (
	"context"
	"time"

	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// adviceStored is the advice of the kinds of stored credentials.
const adviceStored = "ROUTER_AUTH_SECRET to a Secrets Manager name or ARN or the ARN of an SSM parameter"

// version is one version of a stored credential.
type version struct {
	value   secret.String
	id      string
	created time.Time
	of      string // for errors: secret "router/key"
	where   string // the origin of a key: secret router/key (version …)
	jsonKey string // the key of the credential in a JSON payload; "" means the known names
}

// holder turns versions of a stored credential into auth keys: it parses them, and mints keys
// with the OAuth clients in them. It is the common part of the kinds of stored credentials,
// which read the versions.
type holder struct {
	config  Config
	minters map[secret.String]*minter // by client secret and attributes; see minterOf
	state   Known

	// The labels of the source: before the first read, with an auth key, with a client.
	unread, withKey, withClient string

	kind   string // withKey or withClient; "" before the first read
	client string // description of the OAuth client; "" means none
}

func newHolder(c Config, unread, withKey, withClient string) holder {
	return holder{config: c, minters: map[secret.String]*minter{}, unread: unread, withKey: withKey, withClient: withClient}
}

func (h *holder) status() Known { return h.state }

// choose returns the choice for a place such as "Secrets Manager secret router/key".
func (h *holder) choose(place, jsonKey string) Choice {
	what := "ROUTER_AUTH_SECRET: " + place
	if jsonKey != "" {
		what += ", JSON key " + jsonKey
	}
	c := Choice{h.unread, what, "ROUTER_AUTH_SECRET is set"}
	switch h.kind {
	case h.withKey:
		c.Source, c.Why = h.kind, c.Why+" and holds an auth key"
	case h.withClient:
		c.Source, c.Why = h.kind, c.Why+" and holds the secret of the "+h.client+"; a key is made when control asks for one"
	}
	return c
}

// parse returns the credential in a version.
func (h *holder) parse(v version) (payload.Credential, error) {
	found, err := payload.Parse(v.value.Reveal(), payload.Format{
		JSONKey: v.jsonKey, Foreign: payload.Foreign(h.config.ControlURL),
	})
	secret.Remember(found.Key.Reveal())
	if found.Client != nil {
		secret.Remember(found.Client.Secret.Reveal())
	}
	if err != nil {
		return payload.Credential{}, using(v, err)
	}
	return found, nil
}

// minterOf returns the minter of a client, the same one in each call, so that its access
// token is reused. A third client drops the others: only those of two versions, such as
// AWSCURRENT and AWSPENDING, are in use at any time.
func (h *holder) minterOf(v version, c *payload.Client) (*minter, error) {
	key := c.Secret + secret.String("?"+c.Attributes.String())
	if m := h.minters[key]; m != nil {
		return m, nil
	}
	m, err := h.config.newMinter(c)
	if err != nil {
		return nil, using(v, err)
	}
	if len(h.minters) > 1 {
		clear(h.minters)
	}
	h.minters[key] = m
	return m, nil
}

func using(v version, err error) error {
	return problem.Wrapf(err, "using the %s of ROUTER_AUTH_SECRET", v.of)
}

// noteRead updates the status after a read.
func (h *holder) noteRead(v version) {
	h.state.Read, h.state.Created, h.state.Version = time.Now(), v.created, v.id
}

// examine updates the status from a version, and gets an access token for a client.
func (h *holder) examine(ctx context.Context, v version) error {
	h.noteRead(v)
	h.state.Expires = time.Time{}
	found, err := h.parse(v)
	if err != nil {
		return err
	}
	h.note(found)
	if found.Client == nil {
		return nil
	}
	minter, err := h.minterOf(v, found.Client)
	if err != nil {
		return err
	}
	if err := minter.ensureToken(ctx); err != nil {
		return using(v, err)
	}
	return nil
}

func (h *holder) note(found payload.Credential) {
	h.state.Expires = found.Expires
	h.kind, h.client = h.withKey, ""
	if found.Client != nil {
		h.kind, h.client = h.withClient, describeClient(found.Client)
	}
}

// keyFrom returns the key in a version, or mints one with its client.
func (h *holder) keyFrom(ctx context.Context, v version) (secret.String, string, error) {
	found, err := h.parse(v)
	if err != nil {
		return "", "", err
	}
	h.note(found)
	if found.Client == nil {
		return found.Key, v.where, nil
	}
	minter, err := h.minterOf(v, found.Client)
	if err != nil {
		return "", "", err
	}
	key, err := minter.key(ctx)
	if err != nil {
		return "", "", using(v, err)
	}
	return key, v.where + ", OAuth client " + found.Client.ID, nil
}
