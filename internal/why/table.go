package why

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Table is the route table of a subnet.
type Table struct {
	ID     string
	Main   bool // the VPC's main table, which subnets without one of their own use
	Routes []TableRoute
}

// TableRoute is a route of a table, to Prefix or List.
type TableRoute struct {
	Prefix     netip.Prefix
	List       string // "pl-..."
	Target     string // "local", "pcx-...", "tgw-...", "nat-...", "igw-...", "eni-..."
	Blackhole  bool
	Propagated bool
}

// InVPC reports whether a route stays in the VPC: by the local route, or through an appliance.
func (r TableRoute) InVPC() bool {
	return r.Target == "local" || strings.HasPrefix(r.Target, "eni-")
}

func (r TableRoute) destination() string {
	if r.List != "" {
		return r.List
	}
	return r.Prefix.String()
}

// rank orders routes of the same length, as AWS does: static ones, those of prefix lists,
// propagated ones.
func (r TableRoute) rank() int {
	switch {
	case r.Propagated:
		return 0
	case r.List != "":
		return 1
	}
	return 2
}

// LookUp returns the route for an address: the longest one, whatever its kind. nil is none. m is
// the fact that is missing to be certain.
func (t Table) LookUp(a netip.Addr, lists map[string]Fact[[]netip.Prefix]) (found *TableRoute, m Missing) {
	length := -1
	take := func(r *TableRoute, bits int) {
		if bits > length || bits == length && r.rank() > found.rank() {
			found, length = r, bits
		}
	}
	for i := range t.Routes {
		r := &t.Routes[i]
		if r.List == "" {
			if r.Prefix.Contains(a) {
				take(r, r.Prefix.Bits())
			}
			continue
		}
		list, ok := lists[r.List]
		if !ok || !list.Known() {
			m = Missing{"a route of " + t.ID + " is to " + r.List + ": " + orAny(list.Reason, "the list was not read"), list.Fix}
			continue
		}
		for _, p := range list.Value {
			if p.Contains(a) {
				take(r, p.Bits())
			}
		}
	}
	return found, m
}

func (t Table) String() string {
	if t.Main {
		return t.ID + ", the VPC's main table,"
	}
	return t.ID
}

// tables checks the routes from the task to the target, and back.
func (n *Network) tables(f *Facts, task end, hop *TableRoute, missing Missing) []Step {
	if !n.Task.Table.Known() {
		return []Step{unknown("route-table", n.Task.Table.Missing)}
	}
	out := []Step{n.hop("route-table", n.Task.Table.Value, hop, missing, f.Target)}
	if hop != nil && strings.HasPrefix(hop.Target, "pcx-") && !hop.Blackhole {
		out = append(out, n.peering(hop.Target))
	}
	switch own, other := n.Task.Interface.Value, n.Target.Interface.Value; {
	case other == nil:
		return out
	case own != nil && own.VPC == other.VPC && !n.leavesVPC(task.addr):
		return out // the local route of every table
	}
	if !n.Target.Table.Known() {
		return append(out, unknown("target-route-table", n.Target.Table.Missing))
	}
	back, m := n.Target.Table.Value.LookUp(task.addr, n.Lists)
	return append(out, n.hop("target-route-table", n.Target.Table.Value, back, m, task.addr))
}

// leavesVPC reports whether the target's table sends replies elsewhere than by the local route.
func (n *Network) leavesVPC(task netip.Addr) bool {
	if !n.Target.Table.Known() {
		return false
	}
	r, m := n.Target.Table.Value.LookUp(task, n.Lists)
	return r == nil || m != (Missing{}) || r.Target != "local"
}

// hop judges one route.
func (n *Network) hop(step string, t Table, r *TableRoute, m Missing, to netip.Addr) Step {
	if m != (Missing{}) {
		return unknown(step, m)
	}
	add := fmt.Sprintf("add a route for %s to %s", netip.PrefixFrom(to, to.BitLen()), t.ID)
	switch {
	case r == nil:
		return stop(step, add, "%s has no route to %s", strings.TrimSuffix(t.String(), ","), to)
	case r.Blackhole:
		return stop(step, fmt.Sprintf("replace or delete the route %s of %s", r.destination(), t.ID), "the route %s of %s is a blackhole, as %s no longer exists", r.destination(), t, r.Target)
	}
	kind, _, _ := strings.Cut(r.Target, "-")
	text := fmt.Sprintf("the route %s of %s leads to %s", r.destination(), t, orAny(r.Target, "a target of an unknown kind"))
	switch {
	case kind == "local", kind == "pcx":
		return pass(step, "%s", text)
	case (kind == "igw" || kind == "eigw") && special(to) && to.Is4():
		return stop(step, add, "%s: the internet does not lead to %s, which is not a public address", text, to)
	case kind == "igw", kind == "eigw":
		return pass(step, "%s", text)
	case kind == "tgw" && step == "route-table" && n.unattached():
		zone := n.Task.Interface.Value.Zone
		return stop(step, fmt.Sprintf("add a subnet of %s to the VPC's attachment of %s", zone, r.Target), "%s, and no transit gateway has an attachment in %s, the router's availability zone", text, zone)
	case kind == "nat" && step == "target-route-table":
		return stop(step, add, "%s: %s drops replies to connections that did not begin behind it", text, r.Target)
	}
	text, fix, passes := beyond(kind, r.Target, to, text)
	if passes {
		return pass(step, "%s", text)
	}
	return Step{Name: step, Verdict: Unknown, Evidence: text, Fix: fix}
}

// unattached reports that no transit gateway is attached in the availability zone of the task: AWS drops
// packets to one from there. In a shared VPC, the interfaces of attachments are not visible.
func (n *Network) unattached() bool {
	task := n.Task.Interface.Value
	return task != nil && task.Zone != "" && !n.Shared && n.TransitZones.Known() && !slices.Contains(n.TransitZones.Value, task.Zone)
}

// beyond returns the evidence for a route to a gateway, behind which nothing is read, and the parts to
// check there. passes is true if the gateway itself leads to the address.
func beyond(kind, gateway string, to netip.Addr, text string) (evidence, fix string, passes bool) {
	switch kind {
	case "nat":
		text += ", which replaces the router's address by its own"
		if !special(to) {
			return text + "; a private NAT gateway does not lead to the internet", "", true
		}
		return text, fmt.Sprintf("a public NAT gateway leads only to the internet; behind a private one, check the route table of its subnet, and that %s allows its address", to), false
	case "tgw":
		return text + ", whose attachments and route tables were not read", fmt.Sprintf("check in %s that the route table of this VPC's attachment has a route to %s, and that of the target's attachment one back, "+
			"that this VPC's attachment has a subnet in the availability zone of the router, and that the target's subnet has a route back", gateway, to), false
	case "vgw":
		return text + ", whose connections were not read", fmt.Sprintf("check that the VPN or Direct Connect of %s is up, and that both ends have a route to the other", gateway), false
	case "vpce":
		return text + ", behind which is an appliance", fmt.Sprintf("check that the appliance behind %s forwards packets to %s and back", gateway, to), false
	case "eni":
		return text + ", which is an appliance", fmt.Sprintf("check that %s forwards packets to %s and back, with its source/destination check off", gateway, to), false
	}
	return text + ", behind which nothing was read", "", false
}

// notPublic lists the ranges, besides those of [netip.Addr], to which the internet does not lead.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // often the secondary range of a VPC
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),  // documentation
	netip.MustParsePrefix("198.18.0.0/15"), // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

// special reports whether an address is not one of the internet. A NAT gateway translates an IPv6 address of
// 64:ff9b::/96 (NAT64) to the IPv4 address in it.
func special(a netip.Addr) bool {
	if b := a.As16(); nat64.Contains(a) {
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return !a.IsGlobalUnicast() || a.IsPrivate() || slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func (n *Network) peering(id string) Step {
	const step = "peering"
	p, ok := n.Peerings[id]
	switch {
	case !ok:
		return unknown(step, Missing{id + " was not read", ""})
	case !p.Known():
		return unknown(step, p.Missing)
	case p.Value.State != "active":
		return stop(step, "accept or replace the peering connection", "%s is %s, not active", id, p.Value.State)
	}
	return pass(step, "%s is active", id)
}
