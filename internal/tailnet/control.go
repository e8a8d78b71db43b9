package tailnet

import (
	"cmp"
	"fmt"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// ControlProbe returns the URL of the first request of every node to a control server
// (Tailscale's if control is ""): the server's public key, which needs no
// authentication.
func ControlProbe(control string) string {
	return fmt.Sprintf("%s/key?v=%d", cmp.Or(control, ipn.DefaultControlURL), tailcfg.CurrentCapabilityVersion)
}

// controlURL returns the URL of the node's control server.
func (n *Node) controlURL() string { return cmp.Or(n.cfg.ControlURL, ipn.DefaultControlURL) }
