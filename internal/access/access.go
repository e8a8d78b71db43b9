// Package access decides which targets behind the router a client may reach, by the AWS identity of
// the target: its security groups, tags and VPC. A tailnet's policy grants them with an app
// capability, whose values are rules.
//
// The package is pure: [Parse] turns the capability's values into a [Policy], [NewInventory] indexes
// the interfaces that a look-up found, and [Policy.Decide] compares a flow with both. Missing
// information never allows a flow: not an unknown interface, not a rule with an error.
package access

import (
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is a protocol that rules distinguish.
type Protocol uint8

// The protocols. ICMP is echo, in both versions of IP, and has no ports.
const (
	TCP Protocol = iota
	UDP
	ICMP

	protocolCount
)

var protocolNames = [protocolCount]string{"tcp", "udp", "icmp"}

func (p Protocol) String() string { return protocolNames[p] }

// Flow is a flow to decide about.
type Flow struct {
	Protocol Protocol
	Target   netip.AddrPort // in the VPC: for 4via6, the IPv4 address
}

// String returns the flow as rules spell it: "tcp:5432 at 10.0.3.4".
func (f Flow) String() string { return f.service() + " at " + f.Target.Addr().String() }

// service returns the protocol and port as rules spell them: "tcp:5432", "icmp:*".
func (f Flow) service() string {
	if f.Protocol == ICMP {
		return "icmp:*"
	}
	return f.Protocol.String() + ":" + strconv.Itoa(int(f.Target.Port()))
}

// Decide returns the first rule that allows a flow, or nil if none does. A nil Policy has no rules,
// and a nil Inventory no interfaces. It neither allocates nor blocks.
func (p *Policy) Decide(inv *Inventory, f Flow) *Rule {
	if p == nil {
		return nil
	}
	at := inv.at(f.Target.Addr())
	for i := range p.rules {
		if p.rules[i].mismatch(inv, at, f) == "" {
			return &p.rules[i]
		}
	}
	return nil
}

// mismatch returns the field that keeps the rule from allowing a flow to a target with the interfaces at, or
// "". All interfaces have to match: AWS lists two with one address for a moment after the address moved.
func (r *Rule) mismatch(inv *Inventory, at []*Interface, f Flow) string {
	if !r.ports.has(f) {
		return "ports"
	}
	if r.cidrs != nil && !contains(r.cidrs, f.Target.Addr()) {
		return "cidrs"
	}
	if len(at) == 0 {
		switch {
		case r.groups != nil:
			return "securityGroups"
		case r.tags != nil:
			return "tags"
		case r.vpcs != nil && (r.cidrs == nil || !r.vpcs.has(inv.vpc())):
			return "vpcs"
		}
		return ""
	}
	for _, i := range at {
		switch {
		case r.vpcs != nil && !r.vpcs.has(i.VPC):
			return "vpcs"
		case r.groups != nil && !i.inGroup(r.groups):
			return "securityGroups"
		case !i.hasTags(r.tags):
			return "tags"
		}
	}
	return ""
}

func contains(cidrs []netip.Prefix, a netip.Addr) bool {
	for _, p := range cidrs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Explanation describes a decision for people.
type Explanation struct {
	Allowed bool
	// Rule is the rule that allows the flow, as JSON; "" if none does.
	Rule string
	// Target describes the target as AWS lists it.
	Target string
	// Reasons state why the flow is denied: for each rule, the field that does not match, and for each
	// malformed value, its error.
	Reasons []string
}

// maxReasons bounds the reasons of an [Explanation].
const maxReasons = 20

// Explain decides about a flow, and explains the decision.
func (p *Policy) Explain(inv *Inventory, f Flow) Explanation {
	at := inv.at(f.Target.Addr())
	e := Explanation{Target: inv.Describe(f.Target.Addr())}
	if r := p.Decide(inv, f); r != nil {
		e.Allowed, e.Rule = true, r.text
		return e
	}
	if p == nil || len(p.rules)+len(p.problems) == 0 {
		e.Reasons = []string{"no grant gives the client a rule"}
		return e
	}
	for i := range p.rules {
		r := &p.rules[i]
		e.Reasons = append(e.Reasons, "rule "+r.text+": "+r.mismatch(inv, at, f)+" does not match "+f.String())
	}
	e.Reasons = append(e.Reasons, p.problems...)
	if more := len(e.Reasons) - maxReasons; more > 0 {
		e.Reasons = append(e.Reasons[:maxReasons], strconv.Itoa(more)+" more")
	}
	return e
}

// Describe returns the interfaces of an address: "eni-1 in vpc-1 with sg-1 (web), tags env=prod".
func (inv *Inventory) Describe(a netip.Addr) string {
	at := inv.at(a)
	if len(at) == 0 {
		return "no visible interface has " + a.String()
	}
	list := make([]string, len(at))
	for n, i := range at {
		list[n] = i.String()
	}
	return strings.Join(list, "; ")
}
