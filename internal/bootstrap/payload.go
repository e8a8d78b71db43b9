package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/secret"
)

// knownKeys are the names under which a JSON payload may hold the auth key, in
// order of preference.
var knownKeys = []string{"auth_key", "authkey", "TS_AUTHKEY"}

const (
	storeKey  = "store an auth key (tskey-auth-…)"
	storeJSON = `store an auth key (tskey-auth-…), or JSON such as {"auth_key": "tskey-auth-…"}`
)

// stored is what a payload holds: an auth key, or an OAuth client that makes them.
type stored struct {
	key     secret.String
	client  *oauthClient // nil for an auth key
	expires time.Time    // what expires_at of a JSON payload says; zero is nothing
}

// unusable is an error about what was read, which is in the way of joining
// until somebody stores something else.
type unusable struct {
	text string
	is   error // ErrMalformed or ErrEmpty
}

func (u unusable) Error() string        { return u.text }
func (u unusable) Is(target error) bool { return target == u.is }

func malformed(format string, args ...any) error {
	return unusable{fmt.Sprintf(format, args...), ErrMalformed}
}

// parsePayload takes the credential out of a secret's payload: the bare one, or
// a JSON object that has it under jsonKey or, if that is "", under one of the
// known names. Its errors contain names of the object's keys at most.
func parsePayload(payload, jsonKey string) (stored, error) {
	payload = strings.TrimSpace(payload)
	switch {
	case strings.HasPrefix(payload, "{"):
		return parseObject(payload, jsonKey)
	case jsonKey != "" && payload != "":
		return stored{}, malformed("it is not a JSON object, but its key %q is asked for; %s, or unset ROUTER_AUTH_SECRET_KEY", jsonKey, storeJSON)
	}
	return parsePlain(payload)
}

// clientSecret is how an OAuth client's secret begins; the client's ID follows.
const clientSecret = "tskey-client-"

// parsePlain takes any single word for a key, as other control servers have
// other forms, except where the form says that it is something else.
func parsePlain(key string) (stored, error) {
	key = strings.TrimSpace(key)
	switch {
	case key == "":
		return stored{}, unusable{"it is empty; " + storeKey, ErrEmpty}
	case strings.HasPrefix(key, "tskey-api-"):
		return stored{}, malformed("it is an API access token (tskey-api-…), which cannot join a tailnet; %s", storeKey)
	case strings.ContainsFunc(key, notInKeys) || strings.ContainsAny(key[:1], `"'[`):
		return stored{}, malformed("it is neither one word nor a JSON object; %s", storeJSON)
	case strings.HasPrefix(key, clientSecret):
		if strings.Contains(key, "?") {
			return stored{}, malformed("it is an OAuth client secret with attributes behind a question mark, which are the router's own to decide; store it without them")
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(key, clientSecret), "-")
		return stored{client: &oauthClient{id, secret.String(key)}}, nil
	}
	return stored{key: secret.String(key)}, nil
}

// notInKeys is true for whitespace, control characters and whatever is not ASCII.
func notInKeys(r rune) bool { return r <= ' ' || r > '~' }

func parseObject(payload, jsonKey string) (stored, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(payload), &object); err != nil {
		return stored{}, malformed("it starts with { but is not valid JSON; %s", storeJSON) // err may quote a byte of it
	}
	name, found := pick(object, jsonKey)
	switch {
	case !found && jsonKey != "":
		return stored{}, malformed("its JSON has no key %q (it has %s); correct the secret, ROUTER_AUTH_SECRET_KEY or the key behind the ARN", jsonKey, names(object))
	case !found && has(object, "client_id") && has(object, "client_secret"):
		return parseClient(object)
	case !found:
		return stored{}, malformed("its JSON has none of the keys %s (it has %s); rename the key or name it in ROUTER_AUTH_SECRET_KEY", strings.Join(knownKeys, ", "), names(object))
	}
	out, err := parseValue(object, name)
	if err == nil {
		out.expires = expiry(object)
	}
	return out, err
}

// parseClient reads an OAuth client's ID and secret, of whatever form.
func parseClient(object map[string]json.RawMessage) (stored, error) {
	id, err := parseValue(object, "client_id")
	if err != nil {
		return stored{}, err
	}
	value, err := parseValue(object, "client_secret")
	if err != nil {
		return stored{}, err
	}
	client := &oauthClient{id: id.key.Reveal(), secret: value.key}
	if value.client != nil {
		client.secret = value.client.secret
	}
	return stored{client: client, expires: expiry(object)}, nil
}

func parseValue(object map[string]json.RawMessage, name string) (stored, error) {
	value, err := text(object, name)
	if err != nil {
		return stored{}, err
	}
	out, err := parsePlain(value)
	if u := (unusable{}); errors.As(err, &u) {
		u.text = fmt.Sprintf("the value of its key %q: %s", name, u.text)
		return stored{}, u
	}
	return out, err
}

func text(object map[string]json.RawMessage, name string) (string, error) {
	var value *string
	if err := json.Unmarshal(object[name], &value); err != nil || value == nil {
		return "", malformed("the value of its key %q is not a string; %s", name, storeJSON)
	}
	return *value, nil
}

// expiry is when the credential ends, if whoever stored it wrote that down:
// Terraform's tailscale_tailnet_key has the time under the same name. It is for
// a metric only, so a time that cannot be read is none: it must not keep a
// router out that has a good key.
func expiry(object map[string]json.RawMessage) time.Time {
	value, err := text(object, "expires_at")
	if err != nil {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(value))
	if err != nil {
		return time.Time{}
	}
	return at
}

func pick(object map[string]json.RawMessage, jsonKey string) (name string, found bool) {
	if jsonKey != "" {
		return jsonKey, has(object, jsonKey)
	}
	i := slices.IndexFunc(knownKeys, func(k string) bool { return has(object, k) })
	if i < 0 {
		return "", false
	}
	return knownKeys[i], true
}

func has(object map[string]json.RawMessage, name string) bool {
	_, ok := object[name]
	return ok
}

// names lists an object's keys, as many as fit a line. A name that may be a
// credential in the wrong place stays out of it.
func names(object map[string]json.RawMessage) string {
	const most, longest = 8, 32
	if len(object) == 0 {
		return "none"
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if len(name) > longest {
			list = append(list, fmt.Sprintf("one of %d bytes", len(name)))
			continue
		}
		list = append(list, fmt.Sprintf("%q", secret.Scrub(name)))
	}
	if more := len(list) - most; more > 0 {
		list = append(list[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}
