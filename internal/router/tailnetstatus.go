package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"subnetrouter/internal/config"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnet"
)

// serveTailnetStatus serves the status on the node's tailnet addresses until ctx ends, at the
// port of the server's own listener.
func (r *Router) serveTailnetStatus(ctx context.Context, server *ops.Server) error {
	port := server.Addr().(*net.TCPAddr).AddrPort().Port()
	ln, err := r.node.Listen(port)
	if err != nil {
		return fmt.Errorf("serving status on the tailnet (ROUTER_TAILNET_STATUS=on): %w", err)
	}
	r.log.Info("status served on the tailnet", "port", port, "capability", tailnet.StatusCapability)
	return server.ServeTailnet(ctx, ln, ops.TailnetAccess{
		Allowed: r.node.MayReadStatus,
		Names: func() []string {
			s, _ := r.node.Status()
			label, _, _ := strings.Cut(s.FullName, ".")
			return []string{s.Name, s.FullName, label}
		},
		Fix:      "its grant lacks the app capability " + tailnet.StatusCapability + ` with {"read": true}; paste the grant that "router plan" prints into the tailnet policy`,
		MayProbe: r.node.MayProbe,
		ProbeFix: "its grant lacks the app capability " + tailnet.WhyCapability + ` with {"probe": true}; paste the grant that "router plan" prints into the tailnet policy`,
	})
}

// Grants is a part of a tailnet policy, as Tailscale's policy file has it.
type Grants struct {
	Grants []Grant `json:"grants"`
}

// Grant is an entry of [Grants].
type Grant struct {
	Src []string                     `json:"src"`
	Dst []string                     `json:"dst"`
	IP  []string                     `json:"ip,omitempty"`
	App map[string][]json.RawMessage `json:"app,omitempty"`
}

// statusGrants returns the part of the policy that lets administrators read the status of
// routers with a configuration, or nil if they serve none on the tailnet.
func statusGrants(cfg config.Config) *Grants {
	if !cfg.TailnetStatus {
		return nil
	}
	_, service, _ := net.SplitHostPort(cfg.Listen)
	port, err := net.LookupPort("tcp", service)
	if err != nil || port == 0 {
		return nil // chosen at the start
	}
	return &Grants{Grants: []Grant{{
		Src: []string{"autogroup:admin"},
		Dst: cfg.Credential.Tags,
		IP:  []string{"tcp:" + strconv.Itoa(port)},
		App: map[string][]json.RawMessage{
			tailnet.StatusCapability: {json.RawMessage(`{"read": true}`)},
			tailnet.WhyCapability:    {json.RawMessage(`{"probe": true}`)},
		},
	}}}
}
