package tailnet

import (
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/secret"
)

// JoinKind classifies a [JoinError].
type JoinKind int

const (
	JoinOther       JoinKind = iota
	JoinKeyRefused           // the auth key is expired, revoked, used up or unknown
	JoinTagsRefused          // the auth key does not allow the tags
	JoinThrottled            // too many registrations
	JoinNoAnswer             // control did not answer, or only with errors
	JoinClockSkew            // the clocks of this machine and of control differ
)

// JoinError is the error of an attempt to register the node at control.
type JoinError struct {
	Kind JoinKind
	Said string // the text of control or of the network; "" if there was none
	Fix  string

	retryAfter time.Duration
}

// Error returns control's text and the fix.
func (e *JoinError) Error() string {
	s := "registering with control server: " + e.Said
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

// RetryAfter returns the pause that control asks for, or 0 if it asks for none.
func (e *JoinError) RetryAfter() time.Duration { return e.retryAfter }

// mostRetryAfter bounds the pause that control can ask for, and mostSaid the bytes of its
// text in an error.
const (
	mostRetryAfter = 10 * time.Minute
	mostSaid       = 300
)

// refusedBy classifies control's refusal of a registration by its text, as there is nothing
// else: Tailscale's text is the same for expired, revoked and deleted keys.
func refusedBy(said string) *JoinError {
	text := strings.ToLower(said)
	e := &JoinError{Said: secret.Clean(said, mostSaid), Kind: JoinOther}
	switch {
	case strings.Contains(text, "rate limited"):
		e.Kind = JoinThrottled
		if _, after, ok := strings.Cut(text, "retry after "); ok {
			after, _, _ = strings.Cut(strings.TrimSpace(after), ")")
			asked, _ := time.ParseDuration(after)
			e.retryAfter = min(max(asked, 0), mostRetryAfter)
		}
	case strings.Contains(text, "requested tags"):
		e.Kind, e.Fix = JoinTagsRefused, "let tagOwners of the policy file list the tags, and give the auth key just those"
	case strings.Contains(text, "key"), strings.Contains(text, "login"):
		e.Kind, e.Fix = JoinKeyRefused, "put a valid auth key (not expired or used up, tagged) where this one came from"
	}
	return e
}

// noAnswer returns the error of a registration that control did not answer in time. last is
// the engine's last error, or "".
func noAnswer(url, last string) *JoinError {
	e := &JoinError{Kind: JoinNoAnswer, Said: fmt.Sprintf("%v within %v", errNoAnswer, answerWait), Fix: "is " + url + " reachable from the task's subnet?"}
	if last != "" {
		e.Said += ": " + secret.Clean(last, mostSaid)
	}
	if strings.Contains(last, "certificate has expired or is not yet valid") {
		e.Kind, e.Fix = JoinClockSkew, "set the clock of this machine, which says "+time.Now().UTC().Format(time.RFC3339)
	}
	return e
}
