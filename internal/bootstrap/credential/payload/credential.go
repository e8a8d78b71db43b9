// Package payload parses stored and configured credentials: an auth key, an OAuth client
// secret with the attributes of the official image, or a document that contains one of the two.
//
// It accepts every unambiguous form, however it was pasted. Otherwise it returns an error that
// names the form found and the one to store, and never contains a value.
package payload

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Credential is an auth key, or an OAuth client that creates auth keys.
type Credential struct {
	Key     secret.String // "" if Client is set
	Client  *Client       // nil for an auth key
	Expires time.Time     // expires_at in the document; zero if absent
}

// Client is an OAuth client.
type Client struct {
	ID         string
	Secret     secret.String // without attributes
	Attributes Attributes
}

// Format describes how to parse a credential.
type Format struct {
	// JSONKey selects a value in a document; "" selects the known names.
	JSONKey string
	// Foreign is true if the control server is not Tailscale's: its keys may have any form.
	// Tailscale's own start with "tskey-".
	Foreign bool
}

// ErrMalformed is wrapped by an error about a value that was read but is not a credential.
var ErrMalformed = errors.New("malformed credential")

// ErrEmpty is wrapped by an error about an empty value.
var ErrEmpty = errors.New("empty credential")

// The fixes of most errors. Errors about a literal have a different one.
const (
	storeKey  = "store an auth key (tskey-auth-…)"
	storeJSON = `store an auth key (tskey-auth-…), or JSON such as {"auth_key": "tskey-auth-…"}`
	writeKey  = "write an auth key (tskey-auth-…) or an OAuth client secret (tskey-client-…)"
)

// malformed returns a failure that stays until the operator stores something else.
func malformed(fix, cause string, args ...any) error {
	return &problem.Problem{Code: problem.CredentialMalformed, Message: fmt.Sprintf(cause, args...), Fix: fix, Err: ErrMalformed}
}

func empty() error {
	return &problem.Problem{Code: problem.CredentialMissing, Message: "it is empty", Fix: storeKey, Err: ErrEmpty}
}

// within adds to an error the name of the document's key that has the value.
func within(name string, err error) error {
	return problem.Wrapf(err, "the value of its key %q", shown(name))
}

// ofLiteral returns an error about a literal with the fix for literals.
func ofLiteral(err error) error {
	if err == nil {
		return nil
	}
	p := *problem.Of(err)
	if p.Fix == storeJSON {
		p.Fix = storeKey
	}
	p.Fix = strings.Replace(p.Fix, storeKey, writeKey, 1)
	return &p
}
