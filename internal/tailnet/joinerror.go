package tailnet

import (
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/secret"
)

// JoinKind says what sort of failure a [JoinError] is.
type JoinKind int

const (
	JoinOther       JoinKind = iota
	JoinKeyRefused           // the auth key is expired, revoked, used up or unknown
	JoinTagsRefused          // the key may not give the tags
	JoinThrottled            // too many registrations
	JoinNoAnswer             // control did not answer, or answered that it cannot
	JoinClockSkew            // this machine and control disagree about the time
)

// JoinError is why control did not take the node in.
type JoinError struct {
	Kind JoinKind
	Said string // control's words, or the network's; "" if there were none
	Fix  string

	retryAfter time.Duration
}

// Error tells what control said and what to do.
func (e *JoinError) Error() string {
	s := "registering with control server: " + e.Said
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

// RetryAfter is how long control asks to be left alone; 0 if it does not.
func (e *JoinError) RetryAfter() time.Duration { return e.retryAfter }

// mostRetryAfter bounds what control can ask for, and mostSaid its words in an error, in
// bytes.
const (
	mostRetryAfter = 10 * time.Minute
	mostSaid       = 300
)

// refusedBy classifies what control said of a registration. Its words are all
// there is: expired, revoked and deleted keys read the same at Tailscale.
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

// noAnswer tells of a registration that control did not answer in time. last is
// the engine's last error, "" if it had none.
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
