package why

import (
	"fmt"
	"strings"
)

// Access has the decisions of ROUTER_ACCESS about the flow.
type Access struct {
	Report    bool       // only reported: nothing is refused
	Target    string     // as AWS lists it
	Decisions []Decision // about the clients that are [Facts.Admitted]
}

// Decision is the decision about the flow from one address of a client.
type Decision struct {
	Node    string
	Allowed bool
	Rule    string   // that allows it, as JSON
	Reasons []string // that it is refused for
}

// access is the step of ROUTER_ACCESS. Without --from there is nothing to decide about.
func access(f *Facts) []Step {
	const step = "access"
	if f.Access == nil {
		return nil
	}
	a := f.Access
	if len(a.Decisions) == 0 && f.Question.From != "" {
		return nil // the tailnet stops the flow of every client
	}
	if len(a.Decisions) == 0 {
		return []Step{unknown(step, Missing{
			"ROUTER_ACCESS decides for each client; the target is " + a.Target, "ask with --from NODE",
		})}
	}
	var refused []string
	allowed := Decision{}
	for _, d := range a.Decisions {
		switch {
		case !d.Allowed:
			refused = append(refused, d.Node+": "+strings.Join(d.Reasons, "; "))
		case !allowed.Allowed:
			allowed = d
		}
	}
	if !allowed.Allowed {
		text := fmt.Sprintf("no rule of a grant allows it; the target is %s; %s", a.Target, shorten(refused))
		fix := fmt.Sprintf(`add a rule to the capability subnetrouter.dev/cap/aws of a grant from %q to the router's tag, such as {"cidrs": ["%s"], "ports": ["%s"]}`,
			f.Question.From, f.Target, f.ipOfGrant())
		if a.Report {
			return []Step{pass(step, "ROUTER_ACCESS=grants would refuse it: %s", text)}
		}
		return []Step{stop(step, fix, "%s", text)}
	}
	text := fmt.Sprintf("a rule allows it from %s: %s", allowed.Node, allowed.Rule)
	if len(refused) > 0 {
		text += "; not from " + shorten(refused)
	}
	return []Step{pass(step, "%s", text)}
}
