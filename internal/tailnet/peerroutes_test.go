package tailnet

import (
	"fmt"
	"net/netip"
	"testing"

	"tailscale.com/tailcfg"
)

// TestPeerServing looks for the router of an address in netmaps.
func TestPeerServing(t *testing.T) {
	yes, no := true, false
	var large []netip.Prefix
	for i := range 2000 {
		large = append(large, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))
	}
	for name, test := range map[string]struct {
		online *bool
		routes []netip.Prefix
		want   string
	}{
		"the same route":          {&yes, prefixes("10.0.0.0/16"), "other"},
		"a narrower one":          {&yes, prefixes("192.168.0.0/16", "10.0.0.0/24"), "other"},
		"a wider one":             {&yes, prefixes("10.0.0.0/8"), "other"},
		"the address alone":       {&yes, prefixes("10.0.0.2/32"), "other"},
		"after many others":       {&yes, append(large, netip.MustParsePrefix("10.0.0.0/16")), "other"},
		"control does not report": {nil, prefixes("10.0.0.0/16"), "other"},
		"offline":                 {&no, prefixes("10.0.0.0/16"), ""},
		"another route":           {&yes, prefixes("10.0.1.0/24"), ""},
		"an exit node":            {&yes, prefixes("0.0.0.0/0", "::/0"), ""},
		"no routes":               {&yes, nil, ""},
	} {
		var peers []tailcfg.NodeView
		for i, routes := range [][]netip.Prefix{nil, test.routes} {
			own := netip.MustParsePrefix(fmt.Sprintf("100.64.0.%d/32", i+1))
			n := &tailcfg.Node{Name: [...]string{"laptop", "other"}[i], Addresses: []netip.Prefix{own}, AllowedIPs: append([]netip.Prefix{own}, routes...), Online: test.online}
			peers = append(peers, n.View())
		}
		if got := peerServing(peers, netip.MustParseAddr("10.0.0.2")); got != test.want {
			t.Errorf("%s: %q serves it, want %q", name, got, test.want)
		}
	}
	via := &tailcfg.Node{Name: "site", AllowedIPs: prefixes("fd7a:115c:a1e0:b1a:0:7:a00:0/112")}
	for address, want := range map[string]string{"fd7a:115c:a1e0:b1a:0:7:a00:2": "site", "fd7a:115c:a1e0:b1a:0:8:a00:2": "", "10.0.0.2": ""} {
		if got := peerServing([]tailcfg.NodeView{via.View()}, netip.MustParseAddr(address)); got != want {
			t.Errorf("%q serves %s, want %q", got, address, want)
		}
	}
}
