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
)

// Kind says what sort of failure an [*Error] is: whether to wait or to change something.
type Kind int

const (
	Other       Kind = iota
	Refused          // the client or identity is unknown, revoked, or not vouched for
	Denied           // it is known, but may not do this
	BadTags          // it may not give these tags
	Throttled        // too many calls
	Unavailable      // no answer, or none that makes sense
	ClockSkew        // this machine and the API disagree about the time
)

var kindNames = [...]string{"other", "refused", "denied", "bad-tags", "throttled", "unavailable", "clock-skew"}

// String returns a fixed word, fit for a metric label.
func (k Kind) String() string { return kindNames[k] }

// Error is a failed call. It holds no credential.
type Error struct {
	Call   string // one of the Call constants
	URL    string // that was called
	Kind   Kind
	Status int // HTTP status; 0 without an answer
	Cause  string
	Fix    string // what the operator can do

	retryAfter time.Duration
	err        error // the caller's context's end, if that was it
}

// Error names the call, the cause and the fix.
func (e *Error) Error() string {
	s := "calling " + e.URL + ": "
	if e.Status != 0 {
		s += fmt.Sprintf("HTTP %d: ", e.Status)
	}
	s += e.Cause
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

// Unwrap returns the context's error if the caller gave up, else nil.
func (e *Error) Unwrap() error { return e.err }

// RetryAfter is how long the API asks to be left alone; 0 if it does not.
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

func (c *Client) fail(r request, k Kind, cause string) *Error {
	return &Error{Call: r.call, URL: c.url + r.path, Kind: k, Cause: cause, Fix: r.fix(k, c.url)}
}

func (c *Client) networkError(ctx context.Context, r request, err error) *Error {
	e := c.fail(r, Unavailable, cause(err))
	if ctx.Err() != nil {
		e.err = ctx.Err()
	}
	var certificate x509.CertificateInvalidError
	if errors.As(err, &certificate) && certificate.Reason == x509.Expired {
		e = c.fail(r, ClockSkew, "its certificate is not valid at this machine's time, "+time.Now().UTC().Format(time.RFC3339))
	}
	return e
}

func (c *Client) statusError(r request, res *http.Response, body []byte) *Error {
	text := said(body, r.secrets)
	e := c.fail(r, kind(r.call, res.StatusCode, text), text)
	e.Status = res.StatusCode
	if text == "" {
		e.Cause = http.StatusText(res.StatusCode)
	}
	e.retryAfter = retryAfter(res.Header)
	return e
}

// mostRetryAfter bounds what an answer can ask for: a router must not be put to
// sleep for a day.
const mostRetryAfter = 10 * time.Minute

// retryAfter reads Retry-After: seconds, or a date by the clock of the server, which its
// Date header shows. 0 is none, or one that makes no sense.
func retryAfter(h http.Header) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	var asked time.Duration
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		// Compared as a float: a large number of seconds does not fit into a Duration.
		asked = time.Duration(min(max(seconds, 0), mostRetryAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(text); err == nil {
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		asked = at.Sub(now)
	}
	return min(max(asked, 0), mostRetryAfter)
}

// kind classifies an answer. The token calls are about who asks, so that any
// refusal is of the client; the API's words there are as few as "Unauthorized".
func kind(call string, status int, text string) Kind {
	text = strings.ToLower(text)
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled
	case status >= 500, status/100 == 3:
		return Unavailable
	case call == CallTokenExchange && says(text, "expired", "not yet valid", "used before issued", "issued in the future", "not valid yet"):
		return ClockSkew
	case call == CallCreateKey && strings.Contains(text, "tag"):
		return BadTags
	case call == CallCreateKey && status == http.StatusForbidden:
		return Denied
	case call == CallCreateKey && status != http.StatusUnauthorized:
		return Other
	case status/100 == 4:
		return Refused
	}
	return Other
}

func says(text string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// fix is what the operator can do about a failure.
func (r request) fix(k Kind, url string) string {
	federated := r.call == CallTokenExchange
	switch k {
	case Refused:
		if federated {
			return "TS_CLIENT_ID must be the client ID of a federated identity in this tailnet whose issuer, subject and audience are those that AWS vouches for"
		}
		return "the OAuth client was revoked, or its secret is another's: create one with the scope auth_keys (write) and store its secret"
	case Denied:
		return "give the OAuth client or federated identity the scope auth_keys (write)"
	case BadTags:
		return fmt.Sprintf("make the tags of the OAuth client or federated identity and ROUTER_TAGS=%s the same: the API gives a key all tags of a client or those that it owns, and tagOwners of the policy file must list each", strings.Join(r.tags, ","))
	case Throttled:
		return "wait: the router slows down by itself"
	case Unavailable:
		return fmt.Sprintf("the task's subnet needs a way to %s (NAT gateway or proxy), and its security groups must allow port 443", url)
	case ClockSkew:
		return "set the clock of this machine: on EC2 by chrony and the Amazon Time Sync Service, on Fargate by replacing the task"
	}
	return ""
}
