package access

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Interface is a network interface (ENI) of a target.
type Interface struct {
	ID, VPC string
	Groups  []Group
	// Tags are the tags of the interface, and InstanceTags those of the instance that it is attached
	// to, if any.
	Tags, InstanceTags map[string]string
	Addrs              []netip.Addr
	Prefixes           []netip.Prefix // delegated to the interface
}

// Group is a security group.
type Group struct{ ID, Name string }

func (i *Interface) inGroup(wanted *names) bool {
	for _, g := range i.Groups {
		if wanted.has(g.ID) || wanted.has(g.Name) {
			return true
		}
	}
	return false
}

func (i *Interface) hasTags(wanted []tag) bool {
	for _, t := range wanted {
		own, has := i.Tags[t.key]
		if has && own == t.value {
			continue
		}
		if instance, has := i.InstanceTags[t.key]; !has || instance != t.value {
			return false
		}
	}
	return true
}

// String describes the interface in one line.
func (i *Interface) String() string {
	var b strings.Builder
	b.WriteString(i.ID + " in " + i.VPC + " with ")
	for n, g := range i.Groups {
		if n > 0 {
			b.WriteString(", ")
		}
		b.WriteString(g.ID + " (" + g.Name + ")")
	}
	if len(i.Groups) == 0 {
		b.WriteString("no security group")
	}
	all := maps.Clone(i.InstanceTags)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, i.Tags)
	const maxTags = 20
	for n, key := range slices.Sorted(maps.Keys(all)) {
		if n == maxTags {
			b.WriteString(", …")
			break
		}
		b.WriteString(", " + key + "=" + all[key])
	}
	return b.String()
}

// Inventory indexes interfaces by address. It does not change.
type Inventory struct {
	routerVPC string
	count     int
	addrs     map[netip.Addr][]*Interface
	prefixes  map[netip.Prefix][]*Interface
	lengths   []prefixLength // of prefixes, the longest first
}

type prefixLength struct {
	is4  bool
	bits int
}

// NewInventory returns an index of interfaces, which it takes over: they must not be used or changed afterwards. vpc is the VPC of the
// router.
func NewInventory(vpc string, interfaces []Interface) *Inventory {
	inv := &Inventory{
		routerVPC: vpc, count: len(interfaces),
		addrs: make(map[netip.Addr][]*Interface, len(interfaces)), prefixes: map[netip.Prefix][]*Interface{},
	}
	// A decision compares the names of groups, which many interfaces share: one copy of each stays in the processor's cache.
	kept := map[string]string{}
	keep := func(s string) string {
		if _, known := kept[s]; !known {
			kept[s] = s
		}
		return kept[s]
	}
	for n := range interfaces {
		i := &interfaces[n]
		i.VPC = keep(i.VPC)
		for g := range i.Groups {
			i.Groups[g] = Group{keep(i.Groups[g].ID), keep(i.Groups[g].Name)}
		}
		for _, a := range i.Addrs {
			inv.addrs[a] = append(inv.addrs[a], i)
		}
		for _, p := range i.Prefixes {
			p = p.Masked()
			inv.prefixes[p] = append(inv.prefixes[p], i)
			if length := (prefixLength{p.Addr().Is4(), p.Bits()}); !slices.Contains(inv.lengths, length) {
				inv.lengths = append(inv.lengths, length)
			}
		}
	}
	slices.SortFunc(inv.lengths, func(a, b prefixLength) int { return cmp.Compare(b.bits, a.bits) })
	return inv
}

// Len returns the number of interfaces.
func (inv *Inventory) Len() int {
	if inv == nil {
		return 0
	}
	return inv.count
}

// at returns the interfaces of an address: those that have it, else those with the longest prefix
// that contains it.
func (inv *Inventory) at(a netip.Addr) []*Interface {
	if inv == nil {
		return nil
	}
	if at := inv.addrs[a]; at != nil {
		return at
	}
	for _, l := range inv.lengths {
		if l.is4 != a.Is4() {
			continue
		}
		if p, err := a.Prefix(l.bits); err == nil {
			if at := inv.prefixes[p]; at != nil {
				return at
			}
		}
	}
	return nil
}

func (inv *Inventory) vpc() string {
	if inv == nil {
		return ""
	}
	return inv.routerVPC
}
