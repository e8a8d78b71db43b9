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

// fail returns a failed call: the URL, the cause and the fix. It holds no credential.
func (c *Client) fail(r request, k kind, cause string) *problem.Problem {
	p := &problem.Problem{Code: codes[k], Message: "calling " + c.url + r.path + ": " + cause, Fix: r.fix(k, c.url)}
	if k == refused {
		p.Err = ErrRefused
	}
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
	text := said(body, r.secrets)
	k := classify(r.call, res.StatusCode, text)
	if text == "" {
		text = http.StatusText(res.StatusCode)
	}
	p := c.fail(r, k, fmt.Sprintf("HTTP %d: %s", res.StatusCode, text))
	p.RetryAfter = retryAfter(res.Header)
	return p
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

// kind is a sort of failure, which has a code and a fix.
type kind int

const (
	other       kind = iota
	refused          // the client or identity is unknown, revoked, or its identity token is not accepted
	denied           // it is known, but may not do this
	badTags          // it may not give these tags
	throttled        // too many calls
	unavailable      // no answer, or none that makes sense
	clockSkew        // this machine and the API disagree about the time
)

var codes = [...]problem.Code{
	other: problem.JoinFailed, refused: problem.IdentityRefused, denied: problem.IdentityRefused, badTags: problem.TagsRefused,
	throttled: problem.CredentialThrottled, unavailable: problem.CredentialUnreachable, clockSkew: problem.ClockSkew,
}

// classify sorts an answer. The token calls are about who asks, so that any
// refusal is of the client; the API's words there are as few as "Unauthorized".
func classify(call string, status int, text string) kind {
	text = strings.ToLower(text)
	switch {
	case status == http.StatusTooManyRequests:
		return throttled
	case status >= 500, status/100 == 3:
		return unavailable
	case call == CallTokenExchange && says(text, "expired", "not yet valid", "used before issued", "issued in the future", "not valid yet"):
		return clockSkew
	case call == CallCreateKey && strings.Contains(text, "tag"):
		return badTags
	case call == CallCreateKey && status == http.StatusForbidden:
		return denied
	case call == CallCreateKey && status != http.StatusUnauthorized:
		return other
	case status/100 == 4:
		return refused
	}
	return other
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
func (r request) fix(k kind, url string) string {
	federated := r.call == CallTokenExchange
	switch k {
	case refused:
		if federated {
			return "TS_CLIENT_ID must be the client ID of a federated identity in this tailnet whose issuer, subject and audience are those that AWS vouches for"
		}
		return "the OAuth client was revoked, or its secret is another's: create one with the scope auth_keys (write) and store its secret"
	case denied:
		return "give the OAuth client or federated identity the scope auth_keys (write)"
	case badTags:
		return fmt.Sprintf("make the tags of the OAuth client or federated identity and ROUTER_TAGS=%s the same: the API gives a key all tags of a client or those that it owns, and tagOwners of the policy file must list each", strings.Join(r.tags, ","))
	case throttled:
		return "wait: the router slows down by itself"
	case unavailable:
		return fmt.Sprintf("the task's subnet needs a way to %s (NAT gateway or proxy), and its security groups must allow port 443", url)
	case clockSkew:
		return "set the clock of this machine: on EC2 by chrony and the Amazon Time Sync Service, on Fargate by replacing the task"
	}
	return ""
}
