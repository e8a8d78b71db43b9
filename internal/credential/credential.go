// Package credential reads what operators store or write down as a credential:
// an auth key, an OAuth client secret with the attributes of the official
// image, or a document that holds one of the two.
//
// A form whose meaning is certain is accepted, however it was pasted. Anything
// else is an error that names the form and what to store, and never contains a
// value.
package credential

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/secret"
)

// Credential is an auth key, or an OAuth client that creates auth keys.
type Credential struct {
	Key     secret.String // "" if Client is set
	Client  *Client       // nil for an auth key
	Expires time.Time     // expires_at of the document; zero if it has none
}

// Client is an OAuth client.
type Client struct {
	ID         string
	Secret     secret.String // without attributes
	Attributes Attributes
}

// Format describes how to read a credential.
type Format struct {
	// JSONKey selects a value of a document; "" means the known names.
	JSONKey string
	// Foreign reports that the control server is not Tailscale's, so that keys
	// may have any form. Tailscale's own start with "tskey-".
	Foreign bool
}

// ErrMalformed is in the chain of an error about a value that was read and is
// not a credential.
var ErrMalformed = errors.New("malformed credential")

// ErrEmpty is the same for a value that is empty.
var ErrEmpty = errors.New("empty credential")

// The fixes that most errors share. A literal has one of its own.
const (
	storeKey  = "store an auth key (tskey-auth-…)"
	storeJSON = `store an auth key (tskey-auth-…), or JSON such as {"auth_key": "tskey-auth-…"}`
	writeKey  = "write an auth key (tskey-auth-…) or an OAuth client secret (tskey-client-…)"
)

// Error is about a value that was read and cannot be used. It stays until the
// operator stores something else.
type Error struct {
	Cause, Fix string
	is         error // ErrMalformed or ErrEmpty
}

func (e *Error) Error() string { return e.Cause + "; " + e.Fix }

// Is reports whether target is [ErrMalformed] or [ErrEmpty], whichever e is.
func (e *Error) Is(target error) bool { return target == e.is }

func malformed(fix, cause string, args ...any) error {
	return &Error{fmt.Sprintf(cause, args...), fix, ErrMalformed}
}

func empty() error { return &Error{"it is empty", storeKey, ErrEmpty} }

// within adds to an error where in a document the value is.
func within(name string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{fmt.Sprintf("the value of its key %q: %s", shown(name), e.Cause), e.Fix, e.is}
	}
	return err
}

// ofLiteral gives an error about a literal the fix of one.
func ofLiteral(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	fix := e.Fix
	if fix == storeJSON {
		fix = storeKey
	}
	return &Error{e.Cause, strings.Replace(fix, storeKey, writeKey, 1), e.is}
}
