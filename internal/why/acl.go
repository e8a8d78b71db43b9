package why

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ACL is a network ACL. It is stateless: replies need entries of their own.
type ACL struct {
	ID      string
	Entries []ACLEntry
}

// ACLEntry is an entry of a network ACL. The entry with the lowest number that matches a packet
// decides; without one, the packet is denied.
type ACLEntry struct {
	Number        int
	Egress, Allow bool
	Protocol      string
	Prefix        netip.Prefix
	From, To      int // ports; of TCP and UDP only
	Type, Code    int // of ICMP; -1 is any
}

// lastNumber is the number of the entry that denies everything else, which cannot be changed.
const lastNumber = 32767

// ports is a range of ports.
type ports struct{ first, last int }

func (p ports) size() int { return p.last - p.first + 1 }

func (p ports) String() string {
	if p.first == p.last {
		return fmt.Sprint(p.first)
	}
	return fmt.Sprintf("%d-%d", p.first, p.last)
}

// packet is the packets of a flow in one direction.
type packet struct {
	protocol uint8
	icmpType int // of an echo
	other    netip.Addr
	ports    ports // destination ports
}

// matches reports whether an entry matches packets other than by port.
func (e ACLEntry) matches(p packet) bool {
	if !e.Prefix.Contains(p.other) {
		return false
	}
	n, all, ok := protocolNumber(e.Protocol)
	switch {
	case !ok:
		return false
	case all:
		return true
	case n != p.protocol:
		return false
	case n == 1 || n == 58:
		return (e.Type == -1 || e.Type == p.icmpType) && (e.Code == -1 || e.Code == 0)
	}
	return true
}

// portsOf returns the ports of an entry.
func (e ACLEntry) portsOf() ports {
	n, all, _ := protocolNumber(e.Protocol)
	if all || n != 6 && n != 17 {
		return ports{0, 65535}
	}
	return ports{e.From, e.To}
}

// denial is a range of ports that an ACL denies.
type denial struct {
	ports  ports
	number int
}

// decide returns the ports of packets that the ACL denies, and the number of the first entry that
// allows some.
func (a ACL) decide(p packet, egress bool) (denied []denial, allowed int) {
	entries := slices.Clone(a.Entries)
	slices.SortStableFunc(entries, func(a, b ACLEntry) int { return cmp.Compare(a.Number, b.Number) })
	open, allowed := []ports{p.ports}, 0
	for _, e := range entries {
		if e.Egress != egress || !e.matches(p) {
			continue
		}
		var rest []ports
		of := e.portsOf()
		for _, r := range open {
			both := ports{max(r.first, of.first), min(r.last, of.last)}
			if both.first > both.last {
				rest = append(rest, r)
				continue
			}
			if !e.Allow {
				denied = append(denied, denial{both, e.Number})
			} else if allowed == 0 {
				allowed = e.Number
			}
			if r.first < both.first {
				rest = append(rest, ports{r.first, both.first - 1})
			}
			if both.last < r.last {
				rest = append(rest, ports{both.last + 1, r.last})
			}
		}
		open = rest
	}
	for _, r := range open {
		denied = append(denied, denial{r, lastNumber})
	}
	return denied, allowed
}

// acls checks the network ACLs of both subnets in both directions. They do not apply within one
// subnet.
func (n *Network) acls(f *Facts, task, target end) []Step {
	own, other := n.Task.Interface.Value, n.Target.Interface.Value
	if own != nil && other != nil && own.Subnet == other.Subnet {
		return []Step{pass("acls", "task and target are both in %s, within which network ACLs do not apply", own.Subnet)}
	}
	protocol := f.Question.Protocol.number(f.Target)
	there := packet{protocol: protocol, icmpType: echo(f.Target, false), ports: ports{int(f.Question.Port), int(f.Question.Port)}}
	back := packet{protocol: protocol, icmpType: echo(f.Target, true), ports: ports{int(n.First), int(n.Last)}}
	if f.Question.Protocol == ICMP {
		back.ports = ports{}
	}
	check := func(step string, side Side, p packet, other netip.Addr, egress bool) Step {
		if !side.ACL.Known() {
			return unknown(step, side.ACL.Missing)
		}
		p.other = other
		return side.ACL.Value.check(step, f.Question.Protocol, p, egress)
	}
	out := []Step{check("task-acl-out", n.Task, there, target.addr, true)}
	if other != nil {
		out = append(out,
			check("target-acl-in", n.Target, there, task.addr, false),
			check("target-acl-out", n.Target, back, task.addr, true))
	}
	return append(out, check("task-acl-in", n.Task, back, target.addr, false))
}

func (a ACL) check(step string, protocol Protocol, p packet, egress bool) Step {
	direction, preposition, kind := "inbound", "from", fmt.Sprintf("%s port %s", protocol, p.ports)
	if egress {
		direction, preposition = "outbound", "to"
	}
	if protocol == ICMP {
		kind = fmt.Sprintf("ICMP type %d", p.icmpType)
	}
	denied, allowed := a.decide(p, egress)
	if len(denied) == 0 {
		return pass(step, "%s rule %d of %s", direction, allowed, a.ID)
	}
	fix := fmt.Sprintf("add an %s rule with a lower number than the denying one: allow %s %s %s", direction, kind, preposition, netip.PrefixFrom(p.other, p.other.BitLen()))
	all := 0
	var list []string
	for _, d := range denied {
		all += d.ports.size()
		number := fmt.Sprint(d.number)
		if d.number == lastNumber {
			number = "*"
		}
		list = append(list, fmt.Sprintf("%s by rule %s", d.ports, number))
	}
	if all == p.ports.size() {
		_, by, _ := strings.Cut(list[0], " by ")
		return stop(step, fix, "%s %s of %s denies %s %s %s", direction, by, a.ID, kind, preposition, p.other)
	}
	s := stop(step, fix, "%s denies %d of the %d %s ports %s %s to which the router's flows are bound: %s; only some connections work", a.ID, all, p.ports.size(), protocol, preposition, p.other, shorten(list))
	s.some = true
	return s
}
