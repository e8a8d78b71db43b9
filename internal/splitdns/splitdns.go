// Package splitdns computes changes of a tailnet's split DNS, which many routers and people share.
// It is pure: the caller reads the nameservers and writes the change.
//
// A router owns the nameservers with its own address: the VPC's resolver or, with a site, its 4via6
// address. All others belong to other routers and to people:
//
//   - they stay, in their order and with their options, whatever the router adds or removes;
//   - the router's address is appended to the list of each of its domains that lacks it. A domain
//     that several services serve has the addresses of all of them, and a client's queries go to
//     any: they need to give the same answers;
//   - an address that is in the list stays as it is, with options that people gave it;
//   - a domain that the router no longer serves stays, since another router may serve it. Only
//     [Remove] removes addresses, once no router serves the address: then from all domains, also
//     those that an earlier task or a person registered.
//
// A change replaces the whole list of a domain. If two routers write a list at the same time, the
// address of one can be lost until it reads and writes again.
package splitdns

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Table maps a domain to its nameservers, each the JSON of an address or of an object with one
// and options.
type Table = map[string][]json.RawMessage

// Own is the part of the split DNS that a router owns.
type Own struct {
	Nameserver netip.Addr
	Domains    []string // in lower case, without a dot at the end
}

// Change is a change of a [Table].
type Change struct {
	// Lists are the new lists of the domains that change; an empty one removes the domain.
	Lists Table
	// Shared are the domains of Lists that have nameservers of others, sorted.
	Shared []string
}

// None reports whether there is nothing to change.
func (c Change) None() bool { return len(c.Lists) == 0 }

// Domains returns the domains that change, sorted.
func (c Change) Domains() []string { return slices.Sorted(maps.Keys(c.Lists)) }

// Without returns the change without some domains.
func (c Change) Without(domains []string) Change {
	out := Change{Lists: maps.Clone(c.Lists)}
	for _, domain := range domains {
		delete(out.Lists, domain)
	}
	for _, domain := range c.Shared {
		if _, kept := out.Lists[domain]; kept {
			out.Shared = append(out.Shared, domain)
		}
	}
	return out
}

// Register returns the change that makes the own address a nameserver of each own domain. now is
// not modified.
func Register(own Own, now Table) Change {
	change := Change{Lists: Table{}}
	if !own.Nameserver.IsValid() {
		return change
	}
	spelled := spellings(now)
	for _, domain := range own.Domains {
		names := spelled[canonical(domain)]
		if slices.ContainsFunc(names, func(name string) bool { return slices.ContainsFunc(now[name], own.is) }) {
			continue
		}
		name := domain
		if len(names) > 0 {
			name = names[0]
		}
		change.set(name, append(slices.Clone(now[name]), own.json()), len(now[name]) > 0)
	}
	slices.Sort(change.Shared)
	return change
}

// Remove returns the change that removes a nameserver from all domains. now is not modified.
func Remove(nameserver netip.Addr, now Table) Change {
	own := Own{Nameserver: nameserver}
	change := Change{Lists: Table{}}
	for name, list := range now {
		rest := slices.DeleteFunc(slices.Clone(list), own.is)
		if len(rest) < len(list) {
			change.set(name, rest, len(rest) > 0)
		}
	}
	slices.Sort(change.Shared)
	return change
}

func (c *Change) set(name string, list []json.RawMessage, shared bool) {
	if _, twice := c.Lists[name]; !twice && shared {
		c.Shared = append(c.Shared, name)
	}
	c.Lists[name] = list
}

// Apply returns the table after a change, as the API merges it.
func Apply(now Table, c Change) Table {
	out := maps.Clone(now)
	if out == nil {
		out = Table{}
	}
	for domain, list := range c.Lists {
		if out[domain] = list; len(list) == 0 {
			delete(out, domain)
		}
	}
	return out
}

// spellings returns the names of the table by their canonical forms, each list sorted.
func spellings(t Table) map[string][]string {
	out := make(map[string][]string, len(t))
	for _, name := range slices.Sorted(maps.Keys(t)) {
		out[canonical(name)] = append(out[canonical(name)], name)
	}
	return out
}

func canonical(domain string) string { return strings.ToLower(strings.TrimSuffix(domain, ".")) }

// is reports whether a nameserver has the own address.
func (o Own) is(nameserver json.RawMessage) bool {
	a := Address(nameserver)
	return a.IsValid() && a == o.Nameserver.Unmap()
}

func (o Own) json() json.RawMessage {
	return json.RawMessage(`"` + o.Nameserver.Unmap().String() + `"`)
}

// HasOptions reports whether a nameserver of a list has an option in addition to its address.
func HasOptions(list []json.RawMessage) bool {
	return slices.ContainsFunc(list, func(nameserver json.RawMessage) bool {
		var object map[string]json.RawMessage
		if json.Unmarshal(nameserver, &object) != nil {
			return false
		}
		delete(object, "address")
		for _, value := range object {
			if text := string(value); text != "false" && text != "null" {
				return true
			}
		}
		return false
	})
}

// Address returns the address of a nameserver; it is invalid if the nameserver has none, as a
// DNS-over-HTTPS server.
func Address(nameserver json.RawMessage) netip.Addr {
	var text string
	if json.Unmarshal(nameserver, &text) != nil {
		var object struct {
			Address string `json:"address"`
		}
		if json.Unmarshal(nameserver, &object) != nil {
			return netip.Addr{}
		}
		text = object.Address
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}
