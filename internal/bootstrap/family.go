package bootstrap

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"subnetrouter/internal/ecsmeta"
	"subnetrouter/internal/routes"
)

// families are the IP versions over which this router reaches anything, and how
// that is known.
type families struct {
	v4, v6 bool
	task   bool // task metadata lists the addresses; otherwise they are this machine's, now
}

// families asks task metadata, which has all addresses of a task with an
// interface of its own, and else looks at this machine's interfaces.
func (b *Bootstrap) families(ctx context.Context) (families, error) {
	if b.config.MetadataURI != "" {
		task, err := b.readTask(ctx)
		if err != nil {
			return families{}, err
		}
		if n := task.Network; n.Mode == ecsmeta.ModeVPC && len(n.IPv4)+len(n.IPv6) > 0 {
			return families{v4: len(n.IPv4) > 0, v6: len(n.IPv6) > 0, task: true}, nil
		}
	}
	addrs, err := b.config.localAddrs()
	if err != nil {
		return families{}, err
	}
	var f families
	for _, a := range addrs {
		a = a.Unmap()
		if _, denied := routes.Denied(a); denied || tailnet6.Contains(a) {
			continue
		}
		f.v4, f.v6 = f.v4 || a.Is4(), f.v6 || a.Is6()
	}
	return f, nil
}

// tailnet6 has the addresses that the tailnet gives to this machine.
var tailnet6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")

func (c Config) localAddrs() ([]netip.Addr, error) {
	if c.LocalAddrs != nil {
		return c.LocalAddrs()
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}

// isIPv4 reports whether a prefix is for IPv4 targets: 4via6 is IPv4 behind.
func isIPv4(p netip.Prefix) bool {
	_, _, via := routes.Unvia(p.Addr())
	return p.Addr().Is4() || via
}

// familiesFor returns the IP versions of this router, or nil where nothing
// depends on them or nothing tells them: metadata that cannot be read is no
// reason to withdraw anything.
func (b *Bootstrap) familiesFor(ctx context.Context, found []Route) *families {
	_, known := b.task.known()
	if !known && !slices.ContainsFunc(found, func(r Route) bool { return !isIPv4(r.Prefix) }) {
		return nil
	}
	f, err := b.families(ctx)
	if err != nil {
		b.log.Debug("the addresses of this router are unknown", "err", err)
		return nil
	}
	return &f
}

// lacks returns why the task cannot reach a prefix, or "": clients would send
// there, and nothing would come back.
func (f *families) lacks(p netip.Prefix) string {
	switch v4 := isIPv4(p); {
	case f == nil, !f.task, v4 && f.v4, !v4 && f.v6:
		return ""
	case v4:
		return "the task has no IPv4 address, so it cannot reach these; run it in a subnet with an IPv4 CIDR"
	}
	return "the task has no IPv6 address, so it cannot reach these; run it in a subnet with an IPv6 CIDR, with the account setting dualStackIPv6 on"
}

// note returns the same where only this machine's interfaces tell it: they may
// change, and the operator wrote the prefix.
func (f *families) note(p netip.Prefix) []string {
	if f == nil || f.task || f.v6 || isIPv4(p) {
		return nil
	}
	return []string{fmt.Sprintf("%s is IPv6, and this machine has no IPv6 address: the router cannot reach it", p)}
}
