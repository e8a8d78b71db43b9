package why

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Name is the result of resolving the host of a question.
type Name struct {
	Addrs  []netip.Addr
	Server string // that was asked, in words
	Err    string // "" is none
	// Fix is the fix of Err.
	Fix string
}

func name(f *Facts) []Step {
	if a, err := netip.ParseAddr(f.Question.Host); err == nil && f.Target.IsValid() {
		if a == f.Target {
			return nil
		}
		return []Step{pass("dns", "%s is the 4via6 address of %s", a, f.Target)}
	}
	if f.Name.Err != "" {
		return []Step{stop("dns", f.Name.Fix, "%s does not resolve: %s", f.Question.Host, f.Name.Err)}
	}
	if !f.Target.IsValid() {
		return []Step{stop("dns", "create an A or AAAA record for the name", "%s has no address", f.Question.Host)}
	}
	var list []string
	for _, a := range f.Name.Addrs {
		list = append(list, a.String())
	}
	return []Step{pass("dns", "%s is %s (%s)", f.Question.Host, shorten(list), f.Name.Server)}
}

// Member is the router as a node of the tailnet.
type Member struct {
	Running bool
	State   string // the engine's state
	// Problem is the reason why the node cannot carry packets; "" is none.
	Problem, Fix string
}

func member(f *Facts) []Step {
	switch {
	case f.Member.Problem != "":
		return []Step{stop("router", f.Member.Fix, "%s", f.Member.Problem)}
	case !f.Member.Running:
		return []Step{stop("router", "run `router doctor`, which finds the cause", "the router is not a member of the tailnet (state %s)", f.Member.State)}
	}
	return nil
}

// Route is a route that the router's sources found.
type Route struct {
	Prefix                        netip.Prefix
	Source                        string
	Refused                       string // the reason why it is never advertised; "" if it may be
	Advertised, Approved, Primary bool
	HeldBack                      string // the reason why it is not advertised now; "" if there is none
}

// OtherRoute is a route of another node, which control has made primary for it.
type OtherRoute struct {
	Prefix netip.Prefix
	Node   string
	Peer   bool // the node is another router of the same service
}

// best returns the longest route that may be advertised and contains the address; nil is none.
func (f *Facts) best() *Route {
	var found *Route
	for i, r := range f.Routes.Value {
		if r.Refused == "" && r.Prefix.Contains(f.Address) && (found == nil || r.Prefix.Bits() > found.Prefix.Bits()) {
			found = &f.Routes.Value[i]
		}
	}
	return found
}

// other returns the longest route of another node that contains the address.
func (f *Facts) other() (found OtherRoute, ok bool) {
	for _, o := range f.Others {
		if o.Prefix.Contains(f.Address) && (!ok || o.Prefix.Bits() > found.Prefix.Bits()) {
			found, ok = o, true
		}
	}
	return found, ok
}

func route(f *Facts) []Step {
	if !f.Routes.Known() {
		return []Step{stop("route", f.Routes.Fix, "the routes are not known: %s", f.Routes.Reason)}
	}
	other, elsewhere := f.other()
	if r := f.best(); r != nil {
		// Clients take the longest route. One inside ours belongs to another network.
		if elsewhere && !other.Peer && other.Prefix.Bits() > r.Prefix.Bits() {
			return []Step{stop("route", fmt.Sprintf("remove the route %s of %s, or send the flow there on purpose", other.Prefix, other.Node),
				"%s advertises %s, which is longer than %s: clients send the flow there", other.Node, other.Prefix, r.Prefix)}
		}
		return []Step{pass("route", "%s of this router (%s)", r.Prefix, r.Source)}
	}
	for _, r := range f.Routes.Value {
		if r.Prefix.Contains(f.Address) {
			return []Step{stop("route", "reach the target through another router, or change ROUTER_ROUTES and ROUTER_EXCLUDE_ROUTES", "%s (%s) is not advertised: %s", r.Prefix, r.Source, r.Refused)}
		}
	}
	fix := fmt.Sprintf("add %s, or a source that contains it, to ROUTER_ROUTES", f.Address)
	if elsewhere {
		return []Step{stop("route", fmt.Sprintf("ask %s: `router why` there; or %s", other.Node, fix), "no route of this router contains %s; %s has %s", f.Address, other.Node, other.Prefix)}
	}
	return []Step{stop("route", fix, "no route of this router contains %s, and no other node has one", f.Address)}
}

func advertised(f *Facts) []Step {
	switch r := f.best(); {
	case r == nil:
		return nil
	case r.Advertised:
		return []Step{pass("advertised", "%s", r.Prefix)}
	case r.HeldBack != "":
		return []Step{stop("advertised", "make the targets of ROUTER_PROBE reachable", "%s is not advertised: %s", r.Prefix, r.HeldBack)}
	default:
		return []Step{stop("advertised", "wait until the router is ready; /readyz has the reason", "%s is not advertised yet", r.Prefix)}
	}
}

func approved(f *Facts) []Step {
	switch r := f.best(); {
	case r == nil || !r.Advertised:
		return nil
	case r.Approved:
		return []Step{pass("approved", "%s", r.Prefix)}
	default:
		return []Step{stop("approved", fmt.Sprintf("approve %s in the admin console, or add it to autoApprovers in the tailnet policy", r.Prefix), "the tailnet has not approved %s", r.Prefix)}
	}
}

func primary(f *Facts) []Step {
	r := f.best()
	if r == nil || !r.Approved || !r.Advertised {
		return nil
	}
	if r.Primary {
		return []Step{pass("primary", "this router serves %s", r.Prefix)}
	}
	for _, o := range f.Others {
		if o.Prefix != r.Prefix {
			continue
		}
		if o.Peer {
			return []Step{pass("primary", "%s serves %s, and this router is its standby: the steps below are those of this router", o.Node, r.Prefix)}
		}
		return []Step{stop("primary", fmt.Sprintf("remove the route from %s if it does not lead to this VPC, or set ROUTER_SITE_ID, which distinguishes networks with the same addresses", o.Node),
			"%s serves %s, and has no tag of this router", o.Node, r.Prefix)}
	}
	return []Step{unknown("primary", Missing{fmt.Sprintf("no node serves %s yet", r.Prefix), "wait a few seconds: control elects a router"})}
}

// Client is a node that may open the flow.
type Client struct {
	Node, User string
	Addrs      []netip.Addr
	Caps       []string // node capabilities that sources of entries may name
	// Refused reports that the node may open no flow at all, although an entry may allow it: it is
	// jailed, or not signed under Tailnet Lock.
	Refused bool
}

// Entry is an entry of the tailnet's packet filter, as control sends it to the router.
type Entry struct {
	Protocols []uint8
	Sources   []netip.Prefix
	Caps      []string // nodes with one of these are sources too
	Targets   []PortRange
}

// PortRange is a part of an entry's targets.
type PortRange struct {
	Prefix      netip.Prefix
	First, Last uint16
}

// String returns the entry as people read it.
func (e Entry) String() string {
	var from, to []string
	for _, s := range e.Sources {
		from = append(from, s.String())
	}
	for _, c := range e.Caps {
		from = append(from, "nodes with "+c)
	}
	for _, t := range e.Targets {
		ports := ""
		switch {
		case t.First == 0 && t.Last == 65535:
		case t.First == t.Last:
			ports = fmt.Sprintf(" port %d", t.First)
		default:
			ports = fmt.Sprintf(" ports %d-%d", t.First, t.Last)
		}
		to = append(to, t.Prefix.String()+ports)
	}
	return fmt.Sprintf("from %s to %s", shorten(from), shorten(to))
}

// leadsTo reports whether an entry has the target of the flow. The engine compares only addresses
// for ICMP.
func (e Entry) leadsTo(f *Facts) bool {
	if f.Question.Protocol != ICMP && !slices.Contains(e.Protocols, f.Question.Protocol.number(f.Address)) {
		return false
	}
	return slices.ContainsFunc(e.Targets, func(t PortRange) bool {
		return t.Prefix.Contains(f.Address) && (f.Question.Protocol == ICMP || t.First <= f.Question.Port && f.Question.Port <= t.Last)
	})
}

// allows reports whether an entry has a client among its sources.
func (e Entry) allows(c Client, target netip.Addr) bool {
	for _, a := range c.Addrs {
		if a.Is4() == target.Is4() && slices.ContainsFunc(e.Sources, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return true
		}
	}
	return slices.ContainsFunc(e.Caps, func(name string) bool { return slices.Contains(c.Caps, name) })
}

// leads returns the entries that have the target of the flow.
func (f *Facts) leads() (list []Entry) {
	for _, e := range f.Filter.Value {
		if e.leadsTo(f) {
			list = append(list, e)
		}
	}
	return list
}

// Admitted returns the clients whose flow the tailnet lets through to the router: those that may open flows and
// that the packet filter allows, as far as it is known.
func (f *Facts) Admitted() (list []Client) {
	leads := f.leads()
	for _, c := range f.Clients.Value {
		allowed := !f.Filter.Known() || slices.ContainsFunc(leads, func(e Entry) bool { return e.allows(c, f.Address) })
		if allowed && !c.Refused {
			list = append(list, c)
		}
	}
	return list
}

func packetFilter(f *Facts) []Step {
	const step = "filter"
	if !f.Filter.Known() {
		return []Step{unknown(step, f.Filter.Missing)}
	}
	leads := f.leads()
	grant := fmt.Sprintf(`add a grant to the tailnet policy: {"src": [%q], "dst": ["%s"], "ip": ["%s"]}`, orAny(f.Question.From, "autogroup:member"), f.Address, f.ipOfGrant())
	if f.Question.From == "" {
		if len(leads) == 0 {
			return []Step{stop(step, grant, "no entry of the tailnet's packet filter has %s as target", f.Question)}
		}
		return []Step{pass(step, "an entry allows it %s; --from checks one node", leads[0])}
	}
	if !f.Clients.Known() {
		return []Step{unknown(step, f.Clients.Missing)}
	}
	if len(f.Clients.Value) == 0 {
		return []Step{stop(step, "check the name; else "+grant, "this router sees no node or user %q: no such node exists, or the tailnet policy gives it no access here", f.Question.From)}
	}
	var refused []string
	allowed, by := "", Entry{}
	for _, c := range f.Clients.Value {
		i := slices.IndexFunc(leads, func(e Entry) bool { return e.allows(c, f.Address) })
		switch {
		case i < 0:
			refused = append(refused, c.Node)
		case c.Refused:
			refused = append(refused, c.Node+" (the node is shared in, or not signed under Tailnet Lock)")
		case allowed == "":
			allowed, by = c.Node, leads[i]
		}
	}
	if allowed == "" {
		return []Step{stop(step, grant, "no entry of the tailnet's packet filter allows %s from %s", f.Question, shorten(refused))}
	}
	text := fmt.Sprintf("an entry allows it from %s: %s", allowed, by)
	if len(refused) > 0 {
		text += "; not from " + shorten(refused)
	}
	return []Step{pass(step, "%s", text)}
}

func (f *Facts) ipOfGrant() string {
	if f.Question.Protocol == ICMP {
		return "icmp:*"
	}
	return fmt.Sprintf("%s:%d", f.Question.Protocol, f.Question.Port)
}

func orAny(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func denyList(f *Facts) []Step {
	if f.Denied == "" {
		return []Step{pass("deny", "the router's deny list does not have it")}
	}
	return []Step{stop("deny", "none: the router never forwards there", "the router's deny list has %s: %s", f.Target, f.Denied)}
}

// Limit is a limit of the router with its use.
type Limit struct {
	Name        string
	Used, Limit int64 // a Limit of 0 is none
	Fix         string
}

func limits(f *Facts) []Step {
	var list []string
	for _, l := range f.Limits {
		if l.Limit > 0 && l.Used >= l.Limit {
			return []Step{stop("limits", l.Fix, "%d of %d %s are in use", l.Used, l.Limit, l.Name)}
		}
		list = append(list, fmt.Sprintf("%d of %d %s", l.Used, l.Limit, l.Name))
	}
	if len(list) == 0 {
		return nil
	}
	return []Step{pass("limits", "%s", strings.Join(list, ", "))}
}
