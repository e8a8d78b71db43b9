package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"subnetrouter/internal/secret"
)

// knownKeys are the names under which a JSON payload may hold the auth key, in
// order of preference.
var knownKeys = []string{"auth_key", "authkey", "TS_AUTHKEY"}

const (
	storeKey  = "store an auth key (tskey-auth-…)"
	storeJSON = `store an auth key (tskey-auth-…), or JSON such as {"auth_key": "tskey-auth-…"}`
)

var errOAuth = errors.New("OAuth client secrets are not yet supported; " + storeKey)

// parsePayload takes the auth key out of a secret's payload: the bare key, or
// a JSON object that has it under jsonKey or, if that is "", under one of the
// known names. Its errors contain names of the object's keys at most.
func parsePayload(payload, jsonKey string) (secret.String, error) {
	payload = strings.TrimSpace(payload)
	switch {
	case strings.HasPrefix(payload, "{"):
		return parseObject(payload, jsonKey)
	case jsonKey != "" && payload != "":
		return "", fmt.Errorf("it is not a JSON object, but its key %q is asked for; %s, or unset ROUTER_AUTH_SECRET_KEY", jsonKey, storeJSON)
	}
	return parsePlain(payload)
}

// parsePlain takes any single word for a key, as other control servers have
// other forms, except where the form says that it is something else.
func parsePlain(key string) (secret.String, error) {
	key = strings.TrimSpace(key)
	switch {
	case key == "":
		return "", errors.New("it is empty; " + storeKey)
	case strings.HasPrefix(key, "tskey-client-"):
		return "", errOAuth
	case strings.HasPrefix(key, "tskey-api-"):
		return "", errors.New("it is an API access token (tskey-api-…), which cannot join a tailnet; " + storeKey)
	case strings.ContainsFunc(key, notInKeys) || strings.ContainsAny(key[:1], `"'[`):
		return "", errors.New("it is neither one word nor a JSON object; " + storeJSON)
	}
	return secret.String(key), nil
}

// notInKeys is true for whitespace, control characters and whatever is not ASCII.
func notInKeys(r rune) bool { return r <= ' ' || r > '~' }

func parseObject(payload, jsonKey string) (secret.String, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(payload), &object); err != nil {
		return "", errors.New("it starts with { but is not valid JSON; " + storeJSON) // err may quote a byte of it
	}
	name, found := pick(object, jsonKey)
	switch {
	case !found && jsonKey != "":
		return "", fmt.Errorf("its JSON has no key %q (it has %s); correct the secret, ROUTER_AUTH_SECRET_KEY or the key behind the ARN", jsonKey, names(object))
	case !found && has(object, "client_id") && has(object, "client_secret"):
		return "", errOAuth
	case !found:
		return "", fmt.Errorf("its JSON has none of the keys %s (it has %s); rename the key or name it in ROUTER_AUTH_SECRET_KEY", strings.Join(knownKeys, ", "), names(object))
	}
	var value *string
	if err := json.Unmarshal(object[name], &value); err != nil || value == nil {
		return "", fmt.Errorf("the value of its key %q is not a string; %s", name, storeJSON)
	}
	key, err := parsePlain(*value)
	if err != nil && !errors.Is(err, errOAuth) {
		return "", fmt.Errorf("the value of its key %q: %w", name, err)
	}
	return key, err
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
