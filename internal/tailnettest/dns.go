package tailnettest

import (
	"maps"
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
)

// SplitDNS returns the DNS settings of a tailnet whose clients ask a nameserver of its own for each
// zone, or nil without zones: no MagicDNS.
func SplitDNS(zones map[string]netip.Addr) *tailcfg.DNSConfig {
	if len(zones) == 0 {
		return nil
	}
	cfg := &tailcfg.DNSConfig{Proxied: true, Routes: map[string][]*dnstype.Resolver{}}
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		cfg.Routes[zone] = []*dnstype.Resolver{{Addr: zones[zone].String()}}
	}
	return cfg
}
