package tailnet

import (
	"encoding/json"
	"net/netip"

	"tailscale.com/tailcfg"
	"tailscale.com/tailcfg/peercap"
)

// capabilityDomain begins the names of this program's app capabilities, which are a domain and a
// path by Tailscale's rule. A release needs a domain that its maintainers own.
const capabilityDomain = "subnetrouter.dev/cap/"

// StatusCapability is the app capability of peers that may read the router's status on the
// tailnet. Its values are objects like {"read": true}.
const StatusCapability = capabilityDomain + "status"

// AppConnectorCapability is the app capability of the policy's nodeAttrs that names the domains of
// app connectors.
const AppConnectorCapability = "tailscale.com/app-connectors"

// RelayCapability is the app capability of peers that may use a peer relay.
const RelayCapability = "tailscale.com/cap/relay"

// MayReadStatus reports whether a grant gives the peer with an address [StatusCapability] on this
// node. It answers by control's newest rules, and returns false for an address of no peer.
func (n *Node) MayReadStatus(client netip.Addr) bool {
	for _, value := range n.capabilities(client, StatusCapability) {
		var v struct {
			Read bool `json:"read"`
		}
		if json.Unmarshal([]byte(value), &v) == nil && v.Read {
			return true
		}
	}
	return false
}

// AWSCapability is the app capability of peers that may reach targets behind the router by their AWS
// identity. Its values are the rules of package access.
const AWSCapability = capabilityDomain + "aws"

// AccessRules returns the values of [AWSCapability] that the grants to the peer with an address have.
// RulesVersion changes with each change of them.
func (n *Node) AccessRules(client netip.Addr) (values []string) {
	for _, v := range n.capabilities(client, AWSCapability) {
		values = append(values, string(v))
	}
	return values
}

// maxAccessValues bounds the values that [Node.AccessPeers] returns.
const maxAccessValues = 10_000

// AccessPeers returns the number of peers to which grants give [AWSCapability], and their values, each
// once. It evaluates the rules for every peer, so that callers keep the result for a while.
func (n *Node) AccessPeers() (peers int, values []string) {
	if !n.Started() {
		return 0, nil
	}
	m := n.lb.NetMapWithPeers()
	if m == nil {
		return 0, nil
	}
	known := map[string]bool{}
	for _, node := range m.Peers {
		has := false
		for _, a := range node.Addresses().All() {
			for _, v := range n.AccessRules(a.Addr()) {
				if has = true; !known[v] && len(values) < maxAccessValues {
					known[v] = true
					values = append(values, v)
				}
			}
		}
		if has {
			peers++
		}
	}
	return peers, values
}

// RulesVersion returns a number that grows after each change of control's rules, which include
// grants. It takes no lock.
func (n *Node) RulesVersion() uint64 {
	if !n.Started() {
		return 0
	}
	return n.engine.rulesVersion.Load()
}

// WhyCapability is the app capability of peers that may ask the router why a flow fails. Its
// values are objects like {"probe": true}.
const WhyCapability = capabilityDomain + "why"

// MayProbe reports whether a grant gives the peer with an address [WhyCapability] on this node, as
// [Node.MayReadStatus] does for the status.
func (n *Node) MayProbe(client netip.Addr) bool {
	for _, value := range n.capabilities(client, WhyCapability) {
		var v struct {
			Probe bool `json:"probe"`
		}
		if json.Unmarshal([]byte(value), &v) == nil && v.Probe {
			return true
		}
	}
	return false
}

// capabilities returns the values, as JSON, that the grants to a peer have for a capability.
// Each value may be of any form: a policy's author wrote it. The rules are those of AllowsFlow.
func (n *Node) capabilities(client netip.Addr, name string) []tailcfg.RawMessage {
	if !n.Started() {
		return nil
	}
	rules := n.engine.rules.Load()
	if rules == nil || !n.engine.isOpenPeer(client) {
		return nil
	}
	own, ok := n.ownAddress(client.Is4()) // a grant may name one of the node's two addresses
	if !ok {
		return nil
	}
	return rules.CapsWithValues(client, own)[peercap.Cap(name)]
}
