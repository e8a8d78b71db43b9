package why

import (
	"fmt"
	"net/netip"
	"slices"
)

// Group is a security group.
type Group struct {
	ID, Name        string
	Ingress, Egress []Rule
}

// Rule is a rule of a security group: it allows a protocol to or from addresses, prefix lists and
// interfaces with a security group. For ICMP, From is the type and To the code; -1 is any.
type Rule struct {
	Protocol string
	From, To int
	Prefixes []netip.Prefix
	Lists    []string // "pl-..."
	Groups   []string // "sg-..."
}

// covers reports whether the protocol and port of a rule are those of a flow.
func (r Rule) covers(q Question, to netip.Addr) bool {
	n, all, ok := protocolNumber(r.Protocol)
	switch {
	case !ok:
		return false
	case all:
		return true
	case n != q.Protocol.number(to):
		return false
	case q.Protocol == ICMP:
		return (r.From == -1 || r.From == echo(to, false)) && (r.From == -1 || r.To == -1 || r.To == 0)
	}
	return r.From <= int(q.Port) && int(q.Port) <= r.To
}

// admits reports whether the other end of a flow is among those of a rule, and by which. m is the
// fact that is missing to decide it.
func (r Rule) admits(other end, lists map[string]Fact[[]netip.Prefix]) (by string, ok bool, m Missing) {
	for _, p := range r.Prefixes {
		if p.Contains(other.addr) {
			return p.String(), true, Missing{}
		}
	}
	for _, id := range r.Groups {
		if slices.Contains(other.groups.Value, id) {
			return id, true, Missing{}
		}
		if !other.groups.Known() {
			m = Missing{"a rule admits interfaces of " + id + ": " + other.groups.Reason, other.groups.Fix}
		}
	}
	for _, id := range r.Lists {
		in, missing := inList(lists, id, other.addr)
		if in {
			return id, true, Missing{}
		}
		if missing != (Missing{}) {
			m = missing
		}
	}
	return "", false, m
}

// groups checks the security groups of both ends. They are stateful: they allow the replies of a
// flow that they allowed.
func (n *Network) groups(f *Facts, task, target end) []Step {
	out := []Step{n.checkGroups(f, "task-groups", n.Task.Groups, target, Group.egress, "outbound", "to")}
	if n.Target.Interface.Value != nil {
		out = append(out, n.checkGroups(f, "target-groups", n.Target.Groups, task, Group.ingress, "inbound", "from"))
	}
	return out
}

func (g Group) egress() []Rule  { return g.Egress }
func (g Group) ingress() []Rule { return g.Ingress }

func (n *Network) checkGroups(f *Facts, step string, groups Fact[[]Group], other end, rules func(Group) []Rule, direction, preposition string) Step {
	if !groups.Known() {
		return unknown(step, groups.Missing)
	}
	var missing Missing
	var names []string
	for _, g := range groups.Value {
		names = append(names, fmt.Sprintf("%s (%s)", g.ID, g.Name))
		for _, r := range rules(g) {
			if !r.covers(f.Question, f.Target) {
				continue
			}
			by, ok, m := r.admits(other, n.Lists)
			if ok {
				return pass(step, "%s rule of %s %s %s", direction, g.ID, preposition, by)
			}
			if m != (Missing{}) {
				missing = m
			}
		}
	}
	if missing != (Missing{}) {
		return unknown(step, missing)
	}
	return stop(step, fmt.Sprintf("add an %s rule: %s %s %s", direction, f.portText(), preposition, netip.PrefixFrom(other.addr, other.addr.BitLen())),
		"no %s rule of %s allows %s %s %s", direction, shorten(names), f.portText(), preposition, other.addr)
}

// portText returns the protocol and port of the flow, as rules have them.
func (f *Facts) portText() string {
	if f.Question.Protocol == ICMP {
		return "ICMP echo"
	}
	return fmt.Sprintf("%s port %d", f.Question.Protocol, f.Question.Port)
}
