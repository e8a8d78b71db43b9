package why

import (
	"fmt"
	"strings"
	"time"
)

// Probe is the result of a live connection of the router to the target.
type Probe struct {
	Outcome Outcome
	Took    time.Duration
	Err     string // in words; "" is none
}

// Outcome is the outcome of a probe.
type Outcome string

// The outcomes. The zero value is that of no probe.
const (
	Answered    Outcome = "answered"    // TCP was accepted, or UDP or ICMP answered
	Refused     Outcome = "refused"     // the target answered that nothing listens
	Unreachable Outcome = "unreachable" // a host or a router on the way answered that
	Silent      Outcome = "silent"      // no answer in time
	Failed      Outcome = "failed"      // the probe could not be sent
)

// Reached reports whether packets reached the target and came back.
func (p Probe) Reached() bool { return p.Outcome == Answered || p.Outcome == Refused }

func probe(f *Facts) []Step {
	const step = "probe"
	took := f.Probe.Took.Round(10 * time.Microsecond)
	switch f.Probe.Outcome {
	case "":
		reason := f.Probe.Err
		if reason == "" {
			reason = "not tried"
		}
		return []Step{unknown(step, Missing{reason, ""})}
	case Answered:
		return []Step{pass(step, "%s answered in %v", f.Question, took)}
	case Refused:
		return []Step{stop(step, fmt.Sprintf("start the service on port %d, and let it listen on %s", f.Question.Port, f.Target), "%s refused the connection in %v: nothing listens on %s", f.Target, took, f.portText())}
	case Unreachable:
		return []Step{stop(step, "check that the target runs, and the routes to it", "the network answered in %v: %s", took, f.Probe.Err)}
	case Silent:
		if f.Question.Protocol == UDP {
			return []Step{unknown(step, Missing{fmt.Sprintf("no answer within %v, which a UDP service may not owe", took), ""})}
		}
		return []Step{stop(step, "if no other step stops it: check that the target runs, and its own firewall", "no answer within %v", took)}
	case Failed:
	}
	return []Step{stop(step, "see the error", "%s", f.Probe.Err)}
}

// contradict turns stops of the network into unknown steps: the probe got through them. The facts
// may be older than a change that has not taken effect, or the rule may have changed while the
// connections that it allowed continue.
func contradict(steps []Step, p Probe) {
	for i := range steps {
		s := &steps[i]
		if s.Verdict == Stop && !s.some && networkSteps[s.Name] {
			s.Verdict = Unknown
			s.Evidence = strings.TrimSuffix(s.Evidence, ".") + fmt.Sprintf("; yet the probe was %s", p.Outcome)
		}
	}
}

// networkSteps are the steps between the task and the target.
var networkSteps = map[string]bool{
	"task-groups": true, "target-groups": true,
	"task-acl-out": true, "target-acl-in": true, "target-acl-out": true, "task-acl-in": true,
	"route-table": true, "peering": true, "target-route-table": true,
}
