package tailnet

import (
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/reach"
	"subnetrouter/internal/secret"
)

// mostRetryAfter bounds what control can ask for, and mostSaid its words in an error, in
// bytes.
const (
	mostRetryAfter = 10 * time.Minute
	mostSaid       = 300
)

// joinProblem returns the failure of an attempt to register the node. said is the text of
// control or of the network.
func joinProblem(code problem.Code, said, fix string) *problem.Problem {
	return &problem.Problem{Code: code, Message: "registering with control server: " + said, Fix: fix}
}

// refusedBy classifies control's refusal of a registration by its text, as there is nothing
// else: Tailscale's text is the same for expired, revoked and deleted keys.
func refusedBy(said string) *problem.Problem {
	text := strings.ToLower(said)
	said = secret.Clean(said, mostSaid)
	switch {
	case strings.Contains(text, "rate limited"):
		p := joinProblem(problem.ControlThrottled, said, "")
		if _, after, ok := strings.Cut(text, "retry after "); ok {
			after, _, _ = strings.Cut(strings.TrimSpace(after), ")")
			asked, _ := time.ParseDuration(after)
			p.RetryAfter = min(max(asked, 0), mostRetryAfter)
		}
		return p
	case strings.Contains(text, "requested tags"):
		return joinProblem(problem.TagsRefused, said, "let tagOwners of the policy file list the tags, and give the auth key just those")
	case strings.Contains(text, "key"), strings.Contains(text, "login"):
		return joinProblem(problem.KeyRefused, said, "put a valid auth key (not expired or used up, tagged) where this one came from")
	}
	return joinProblem(problem.JoinFailed, said, "")
}

// noAnswer returns the failure of a registration that control has not answered for the time
// waited. last is the engine's last error, or "". network explains why control does not
// answer requests at all; it is nil if control does, or if it is unknown.
func noAnswer(url string, waited time.Duration, last string, network *reach.Failure) *problem.Problem {
	said := fmt.Sprintf("%v within %v", errNoAnswer, waited)
	clock := strings.Contains(last, "certificate has expired or is not yet valid")
	fix := "is " + url + " reachable from the task's subnet? See router doctor"
	if network != nil {
		last, fix, clock = network.Cause, network.Fix, network.Clock
	}
	if last != "" {
		said += ": " + secret.Clean(last, mostSaid)
	}
	if clock {
		return joinProblem(problem.ClockSkew, said, "set the clock of this machine, which says "+time.Now().UTC().Format(time.RFC3339))
	}
	return joinProblem(problem.ControlUnreachable, said, fix)
}
