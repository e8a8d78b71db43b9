package tailnettest

import (
	"net/netip"

	"tailscale.com/tailcfg"
	"tailscale.com/tailcfg/peercap"
)

// Rule is an access rule, for all protocols.
type Rule struct {
	Src, Dst []string // addresses, prefixes or "*"
	Port     uint16   // of Dst; 0: all
	// App are app capabilities: their names, and their values as JSON. A rule with App allows
	// no packets.
	App map[string][]string
}

// nowhere is an address that no node has (RFC 5737). A map response cannot contain an empty
// list of rules: clients take it for "unchanged".
const nowhere = "192.0.2.1"

// packetFilter returns rules in the form of a map response.
func packetFilter(rules []Rule) []tailcfg.FilterRule {
	out := []tailcfg.FilterRule{{SrcIPs: []string{nowhere}, DstPorts: []tailcfg.NetPortRange{{IP: nowhere, Ports: tailcfg.PortRangeAny}}}}
	for _, r := range rules {
		ports := tailcfg.PortRangeAny
		if r.Port != 0 {
			ports = tailcfg.PortRange{First: r.Port, Last: r.Port}
		}
		f := tailcfg.FilterRule{SrcIPs: r.Src}
		if r.App != nil {
			f.CapGrant = []tailcfg.CapGrant{r.grant()}
			out = append(out, f)
			continue
		}
		for _, dst := range r.Dst {
			f.DstPorts = append(f.DstPorts, tailcfg.NetPortRange{IP: dst, Ports: ports})
		}
		out = append(out, f)
	}
	return out
}

// grant returns the app capabilities of a rule, whose Dst are addresses or prefixes.
func (r Rule) grant() tailcfg.CapGrant {
	g := tailcfg.CapGrant{CapMap: tailcfg.PeerCapMap{}}
	for _, dst := range r.Dst {
		p, err := netip.ParsePrefix(dst)
		if err != nil {
			p = netip.PrefixFrom(netip.MustParseAddr(dst), netip.MustParseAddr(dst).BitLen())
		}
		g.Dsts = append(g.Dsts, p)
	}
	for name, values := range r.App {
		for _, v := range values {
			g.CapMap[peercap.Cap(name)] = append(g.CapMap[peercap.Cap(name)], tailcfg.RawMessage(v))
		}
	}
	return g
}
