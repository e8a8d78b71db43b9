package why

import (
	"fmt"
	"net/netip"
	"slices"
)

// Network describes the way of a flow through AWS, from the task to the target and back.
type Network struct {
	Task, Target Side
	// Lists are the managed prefix lists that rules and routes name.
	Lists map[string]Fact[[]netip.Prefix]
	// Peerings are the peering connections that routes name.
	Peerings map[string]Fact[Peering]
	// TransitZones are the availability zones of the task's VPC in which transit gateways are attached;
	// they are read if the task's route leads to one.
	TransitZones Fact[[]string]
	// Shared reports that the VPC belongs to another account, whose interfaces are not visible.
	Shared bool
	// First and Last bound the source ports of the router's flows, to which replies go.
	First, Last uint16
}

// Side is one end of a flow. The interface of the target is nil if none has the address.
type Side struct {
	Interface Fact[*Interface]
	Groups    Fact[[]Group]
	ACL       Fact[ACL]
	Table     Fact[Table]
}

// Interface is a network interface.
type Interface struct {
	ID, VPC, Subnet string
	Zone            string   // availability zone; "" is unknown
	Groups          []string // IDs of security groups
	Addrs           []netip.Addr
}

// Peering is a VPC peering connection.
type Peering struct {
	ID    string
	State string // "active"
}

// end is one end of a flow as rules of security groups see it.
type end struct {
	addr   netip.Addr
	groups Fact[[]string]
}

func (f *Facts) ends() (task, target end) {
	n := f.Network
	target.addr = f.Target
	if i := n.Task.Interface.Value; i != nil {
		task.groups = Know(i.Groups)
		for _, a := range i.Addrs {
			if a.Is4() == f.Target.Is4() {
				task.addr = a
				break
			}
		}
	} else {
		task.groups = Fact[[]string]{Missing: n.Task.Interface.Missing}
	}
	switch i := n.Target.Interface.Value; {
	case i != nil:
		target.groups = Know(i.Groups)
	case n.Target.Interface.Known(): // there is no interface, or it belongs to another account
		target.groups = Lack[[]string]("the target's security groups are not visible", "")
	default:
		target.groups = Fact[[]string]{Missing: n.Target.Interface.Missing}
	}
	return task, target
}

func network(f *Facts) []Step {
	n := f.Network
	if n == nil {
		return nil
	}
	if !n.Task.Interface.Known() {
		return []Step{unknown("task-interface", n.Task.Interface.Missing)}
	}
	task, target := f.ends()
	if !task.addr.IsValid() {
		return []Step{stop("task-interface", "give the task's subnet a CIDR of that IP version", "the task has no address of the IP version of %s", f.Target)}
	}
	hop, first := n.Task.Table.Value.LookUp(f.Target, n.Lists)
	out := n.targetInterface(f.Target, hop != nil && hop.InVPC())
	out = append(out, n.groups(f, task, target)...)
	out = append(out, n.acls(f, task, target)...)
	return append(out, n.tables(f, task, hop, first)...)
}

func (n *Network) targetInterface(target netip.Addr, local bool) []Step {
	const step = "target-interface"
	switch i := n.Target.Interface; {
	case !i.Known():
		return []Step{unknown(step, i.Missing)}
	case i.Value != nil:
		return []Step{pass(step, "%s in %s", i.Value.ID, i.Value.Subnet)}
	case !local:
		return []Step{unknown(step, Missing{fmt.Sprintf("no interface of this account and region has %s: the steps on its side are not known", target), ""})}
	case n.Shared:
		return []Step{unknown(step, Missing{fmt.Sprintf("no interface of this account has %s, and the VPC is shared by another", target), "ask the account that owns the target"})}
	}
	// AWS lists its own addresses (the VPC's resolver) with no interface.
	return []Step{unknown(step, Missing{
		fmt.Sprintf("no network interface of the VPC lists %s, nor does a prefix delegated to one contain it: it is unused, or an address of AWS such as the resolver's", target),
		"check the address; the target may have been replaced",
	})}
}

// number returns the IP protocol of a flow to an address.
func (p Protocol) number(to netip.Addr) uint8 {
	switch {
	case p == TCP:
		return 6
	case p == UDP:
		return 17
	case to.Is4():
		return 1
	}
	return 58
}

// protocolNumber returns the IP protocol that a rule names: by number, or as security groups spell
// it. all is true for a rule of every protocol.
func protocolNumber(s string) (n uint8, all, ok bool) {
	switch s {
	case "-1", "all":
		return 0, true, true
	case "tcp":
		return 6, false, true
	case "udp":
		return 17, false, true
	case "icmp":
		return 1, false, true
	case "icmpv6":
		return 58, false, true
	}
	v := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		if v = v*10 + int(c-'0'); v > 255 {
			return 0, false, false
		}
	}
	return uint8(v), false, s != ""
}

// echo returns the ICMP type of an echo request or reply.
func echo(to netip.Addr, reply bool) int {
	switch {
	case to.Is4() && reply:
		return 0
	case to.Is4():
		return 8
	case reply:
		return 129
	}
	return 128
}

// inList reports whether a prefix list contains an address.
func inList(lists map[string]Fact[[]netip.Prefix], id string, a netip.Addr) (in bool, m Missing) {
	list, ok := lists[id]
	switch {
	case !ok:
		return false, Missing{"prefix list " + id + " was not read", ""}
	case !list.Known():
		return false, list.Missing
	}
	return slices.ContainsFunc(list.Value, func(p netip.Prefix) bool { return p.Contains(a) }), Missing{}
}
