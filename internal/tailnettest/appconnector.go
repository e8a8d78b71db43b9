package tailnettest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"
	"tailscale.com/tailcfg/nodecap"
	"tailscale.com/types/appctype"
	"tailscale.com/types/dnstype"
)

// AppConnector is an entry of the policy's nodeAttrs for app connectors.
type AppConnector struct {
	Domains    []string
	Connectors []string // tags
	Routes     []netip.Prefix
}

const appConnectorCap nodecap.Cap = "tailscale.com/app-connectors"

// addAppConnectorsLocked adds the app connectors to a map response for n: as a capability, and as
// split DNS by the peer API of each connector, as Tailscale's control does.
func (t *Tailnet) addAppConnectorsLocked(res *tailcfg.MapResponse, n *member) {
	if len(t.policy.AppConnectors) == 0 {
		return
	}
	dns := &tailcfg.DNSConfig{Routes: map[string][]*dnstype.Resolver{}}
	if res.DNSConfig != nil {
		dns = res.DNSConfig.Clone()
	}
	dns.Proxied = true
	for _, app := range t.policy.AppConnectors {
		value, _ := json.Marshal(appctype.AppConnectorAttr{Name: "app", Domains: app.Domains, Connectors: app.Connectors, Routes: app.Routes})
		res.Node.CapMap[appConnectorCap] = append(res.Node.CapMap[appConnectorCap], tailcfg.RawMessage(value))
		for _, m := range t.nodes {
			url, ok := t.peerAPILocked(m)
			if !ok || m == n || !slices.ContainsFunc(m.tags, func(tag string) bool { return slices.Contains(app.Connectors, tag) }) {
				continue
			}
			for _, domain := range app.Domains {
				dns.Routes[domain] = append(dns.Routes[domain], &dnstype.Resolver{Addr: url + "/dns-query"})
			}
		}
	}
	res.DNSConfig = dns
}

// peerAPILocked returns the URL of the peer API of a node that reports the role of an app connector.
func (t *Tailnet) peerAPILocked(m *member) (url string, ok bool) {
	node := t.base.Node(m.key)
	if node == nil || !node.Hostinfo.Valid() {
		return "", false
	}
	if on, _ := node.Hostinfo.AppConnector().Get(); !on {
		return "", false
	}
	for _, s := range node.Hostinfo.Services().All() {
		if s.Proto == tailcfg.PeerAPI4 && len(node.Addresses) > 0 {
			return fmt.Sprintf("http://%s", netip.AddrPortFrom(node.Addresses[0].Addr(), s.Port)), true
		}
	}
	return "", false
}
