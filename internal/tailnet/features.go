package tailnet

// Features that a router needs and tailscale.com links in only on import. The build
// tags in build/tags leave out others.
import (
	_ "tailscale.com/feature/c2n"                   // control's HA election probes over it
	_ "tailscale.com/feature/condregister/useproxy" // HTTPS_PROXY towards control
	_ "tailscale.com/feature/relayserver"           // a peer relay
	_ "tailscale.com/feature/tailnetlock"           // tailnets that sign their nodes
	_ "tailscale.com/wgengine/router/osrouter"      // kernel mode: addresses, routes, NAT
)
