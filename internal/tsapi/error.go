package tsapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"subnetrouter/internal/problem"
)

// ErrRefused is the cause of a failure if the API refuses the client or identity
// itself: it is unknown, revoked, or its identity token is not accepted. An identity
// that only lacks a scope has the same code without this cause.
var ErrRefused = errors.New("client or identity refused")

// ErrDenied is the cause of a failure if the client or identity lacks a scope, and ErrUnsupported
// if the server does not have the call, as other servers than Tailscale's.
var (
	ErrDenied      = errors.New("client or identity lacks a scope")
	ErrUnsupported = errors.New("call not supported by the server")
)

// fail returns a failed call: the URL, the cause and the fix. It holds no credential.
func (c *Client) fail(r request, k kind, cause string) *problem.Problem {
	p := &problem.Problem{Code: codes[k], Message: "calling " + c.url + r.path + ": " + cause, Fix: r.fix(k, c.url)}
	p.Err = causes[k]
	return p
}

func (c *Client) networkError(ctx context.Context, r request, err error) *problem.Problem {
	var certificate x509.CertificateInvalidError
	if errors.As(err, &certificate) && certificate.Reason == x509.Expired {
		return c.fail(r, clockSkew, "its certificate is not valid at this machine's time, "+time.Now().UTC().Format(time.RFC3339))
	}
	p := c.fail(r, unavailable, cause(err))
	p.Err = ctx.Err()
	return p
}

func (c *Client) statusError(r request, res *http.Response, body []byte) *problem.Problem {
	text := errorText(body, r.secrets)
	k := classify(r.call, res.StatusCode, text)
	if text == "" {
		text = http.StatusText(res.StatusCode)
	}
	p := c.fail(r, k, fmt.Sprintf("HTTP %d: %s", res.StatusCode, text))
	p.RetryAfter = retryAfter(res.Header)
	return p
}

// maxRetryAfter bounds the pause that an answer can request, so that a faulty server cannot
// stop a router for a day.
const maxRetryAfter = 10 * time.Minute

// retryAfter parses Retry-After: seconds, or a date by the clock of the server, which its
// Date header shows. It returns 0 if the header is missing or malformed.
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	var asked time.Duration
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		// Compared as a float: a large number of seconds does not fit into a Duration.
		asked = time.Duration(min(max(seconds, 0), maxRetryAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(text); err == nil {
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		asked = at.Sub(now)
	}
	return min(max(asked, 0), maxRetryAfter)
}

// kind is a kind of failure; it determines code and fix.
type kind int

const (
	other       kind = iota
	refused          // the client or identity is unknown, revoked, or its identity token is not accepted
	denied           // it is known, but may not do this
	badTags          // it may not give these tags
	throttled        // too many calls
	unavailable      // no answer, or a malformed one
	clockSkew        // the clocks of this machine and the API differ
	unsupported      // the server does not have this call
)

var codes = [...]problem.Code{
	other: problem.JoinFailed, refused: problem.IdentityRefused, denied: problem.IdentityRefused, badTags: problem.TagsRefused,
	throttled: problem.CredentialThrottled, unavailable: problem.CredentialUnreachable, clockSkew: problem.ClockSkew, unsupported: problem.JoinFailed,
}

// causes holds the kinds that callers distinguish.
var causes = map[kind]error{refused: ErrRefused, denied: ErrDenied, unsupported: ErrUnsupported}

// classify returns the kind of a failure. The token calls only authenticate the client, so
// each of their refusals is of the client itself; the API's text may be only "Unauthorized".
func classify(call string, status int, text string) kind {
	text = strings.ToLower(text)
	switch {
	case status == http.StatusTooManyRequests:
		return throttled
	case (splitDNS(call) || devices(call)) && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented):
		return unsupported
	case status >= 500, status/100 == 3:
		return unavailable
	case call == CallTokenExchange && containsAny(text, "expired", "not yet valid", "used before issued", "issued in the future", "not valid yet"):
		return clockSkew
	case call == CallCreateKey && strings.Contains(text, "tag"):
		return badTags
	case status/100 != 4:
		return other
	case call == CallToken, call == CallTokenExchange, status == http.StatusUnauthorized:
		return refused
	case status == http.StatusForbidden:
		return denied
	}
	return other
}

func containsAny(text string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// scopes holds what each call needs. `router verify` makes both calls for devices.
var scopes = map[string]string{
	CallCreateKey:     "the scope auth_keys (write)",
	CallDeleteDevice:  "the scope devices:core (write) and the tags of the device",
	CallGetSplitDNS:   "the scope dns (write); dns:read is enough for router plan",
	CallGetDNS:        "the scope dns (write); dns:read is enough for router plan",
	CallPatchSplitDNS: "the scope dns (write)",
	CallListDevices:   "the scopes devices:core:read and devices:routes:read",
	CallDeviceRoutes:  "the scopes devices:core:read and devices:routes:read",
}

// fix returns the operator's fix for a failure.
func (r request) fix(k kind, url string) string {
	federated := r.call == CallTokenExchange
	switch k {
	case refused:
		if devices(r.call) {
			return "the access token expired or was revoked: create another one"
		}
		if federated {
			return "TS_CLIENT_ID must be the client ID of a federated identity in this tailnet whose issuer, subject and audience are those of AWS's identity token"
		}
		if r.call == CallToken { // which every use of the client begins with
			return "the OAuth client was revoked, or the secret belongs to another one: create one with the same scopes and tags, and store its secret"
		}
		return "the OAuth client or federated identity was revoked: create another one with " + scopes[r.call]
	case denied:
		return "give the OAuth client or federated identity " + scopes[r.call]
	case badTags:
		return fmt.Sprintf("make the tags of the OAuth client or federated identity and ROUTER_TAGS=%s the same: the API gives a key all tags of a client or those that it owns, and tagOwners of the policy file must list each", strings.Join(r.tags, ","))
	case throttled:
		return "wait: the router retries more slowly"
	case unavailable:
		if devices(r.call) {
			return fmt.Sprintf("HTTPS to %s must be possible from here, with HTTPS_PROXY if there is a proxy", url)
		}
		return fmt.Sprintf("the task's subnet needs a way to %s (NAT gateway or proxy), and its security groups must allow port 443", url)
	case unsupported:
		if devices(r.call) {
			return fmt.Sprintf("ask the router itself: %s does not have Tailscale's API for devices", url)
		}
		return fmt.Sprintf("set ROUTER_DNS_REGISTER=off and configure split DNS in the control server: %s does not have Tailscale's API for it", url)
	case clockSkew:
		return "set the clock of this machine: on EC2 by chrony and the Amazon Time Sync Service, on Fargate by replacing the task"
	default:
		return ""
	}
}
