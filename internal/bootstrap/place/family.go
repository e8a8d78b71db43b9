package place

import (
	"context"
	"net"
	"net/netip"

	"subnetrouter/internal/ecsmeta"
	"subnetrouter/internal/routes"
)

// Families are the IP versions of which this router has an address, and the origin of that
// information.
type Families struct {
	IPv4, IPv6 bool
	Task       bool // from task metadata; otherwise from this machine's current interfaces
}

// TaskKnown reports whether task metadata was read.
func (f *Finder) TaskKnown() bool {
	_, known := f.task.Cached()
	return known
}

// Families returns the IP versions of this router: from task metadata, which lists all
// addresses of a task with its own interface, otherwise from this machine's interfaces.
func (f *Finder) Families(ctx context.Context) (Families, error) {
	if f.OnECS() {
		task, err := f.Task(ctx)
		if err != nil {
			return Families{}, err
		}
		if n := task.Network; n.Mode == ecsmeta.ModeVPC && len(n.IPv4)+len(n.IPv6) > 0 {
			return Families{IPv4: len(n.IPv4) > 0, IPv6: len(n.IPv6) > 0, Task: true}, nil
		}
	}
	addrs, err := f.config.localAddrs()
	if err != nil {
		return Families{}, err
	}
	var have Families
	for _, a := range addrs {
		a = a.Unmap()
		if _, denied := routes.Denied(a); denied || tailnet6.Contains(a) {
			continue
		}
		have.IPv4, have.IPv6 = have.IPv4 || a.Is4(), have.IPv6 || a.Is6()
	}
	return have, nil
}

// tailnet6 contains the addresses that the tailnet assigns to this machine.
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
