package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"subnetrouter/internal/ops"
)

// roles reports which of the roles that are on the tailnet has approved, which only a running
// router knows.
func (e *exam) roles(ctx context.Context) Result {
	on := slices.Sorted(maps.Keys(e.Roles))
	if len(on) == 0 {
		return skip("only that of a subnet router is on")
	}
	var fixes []string
	for _, name := range on {
		fixes = append(fixes, fmt.Sprintf("for the role %s add to the policy file: %s", spaced(name), e.Roles[name]))
	}
	s, err := e.status.Get(ctx)
	if err != nil {
		res := skip("unknown until a router runs")
		res.Fix = strings.Join(fixes, "; ")
		return res
	}
	var approved, missing, fix []string
	for i, name := range on {
		at := slices.IndexFunc(s.Roles, func(r ops.Role) bool { return r.Name == name })
		switch {
		case at < 0:
			missing, fix = append(missing, spaced(name)+" (the running router does not have it)"), append(fix, "restart the router with this configuration")
		case s.Roles[at].Port != 0 && !s.Roles[at].Advertised:
			missing, fix = append(missing, fmt.Sprintf("%s (UDP port %d is not bound)", spaced(name), s.Roles[at].Port)), append(fix, "set ROUTER_PEER_RELAY to a free port")
		case !s.Roles[at].Advertised:
			missing, fix = append(missing, spaced(name)+" (not advertised yet)"), append(fix, "wait until the router is ready")
		case !s.Roles[at].Approved:
			missing, fix = append(missing, spaced(name)), append(fix, fixes[i])
		default:
			approved = append(approved, spaced(name))
		}
	}
	if len(missing) > 0 {
		return fail("not approved: "+strings.Join(missing, ", "), strings.Join(unique(fix), "; "))
	}
	return pass("approved: " + strings.Join(approved, ", "))
}

// spaced returns a role's name in words.
func spaced(name string) string { return strings.ReplaceAll(name, "_", " ") }
