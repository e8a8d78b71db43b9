package tailnettest

import "tailscale.com/tailcfg"

// Rule is an access rule, for all protocols.
type Rule struct {
	Src, Dst []string // addresses, prefixes or "*"
	Port     uint16   // of Dst; 0: all
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
		for _, dst := range r.Dst {
			f.DstPorts = append(f.DstPorts, tailcfg.NetPortRange{IP: dst, Ports: ports})
		}
		out = append(out, f)
	}
	return out
}
