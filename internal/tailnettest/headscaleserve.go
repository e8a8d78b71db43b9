package tailnettest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"text/template"
	"time"
)

// writeFiles writes the configuration, the policy and the DERP map.
func (h *Headscale) writeFiles(listen netip.AddrPort, cfg HeadscaleConfig) error {
	derpMap, err := headscaleDERPMap(h.derp)
	if err != nil {
		return err
	}
	files := map[string][]byte{"derp.yaml": derpMap}
	// JSON is YAML, and HuJSON too.
	for name, content := range map[string]any{
		"config.yaml":   h.settings(listen),
		"policy.hujson": headscalePolicy(cfg),
	} {
		if files[name], err = json.MarshalIndent(content, "", "  "); err != nil {
			return err
		}
	}
	for name, content := range files {
		if err := os.WriteFile(h.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

type object = map[string]any

// settings returns a configuration with which Headscale and its nodes do not access the
// outside, and any number of them can run on one machine.
func (h *Headscale) settings(listen netip.AddrPort) object {
	return object{
		"server_url":  h.url,
		"listen_addr": listen.String(),
		// 0.26 and 0.27 do not run without metrics.
		"metrics_listen_addr":    "127.0.0.1:0",
		"grpc_listen_addr":       "127.0.0.1:0",
		"unix_socket":            h.path("sock"),
		"unix_socket_permission": "0700",
		"noise":                  object{"private_key_path": h.path("noise.key")},
		"database":               object{"type": "sqlite", "sqlite": object{"path": h.path("db.sqlite")}},
		"prefixes":               object{"v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48", "allocation": "sequential"},
		"policy":                 object{"mode": "file", "path": h.path("policy.hujson")},
		"derp": object{
			"server":              object{"enabled": false},
			"urls":                []string{},
			"paths":               []string{h.path("derp.yaml")},
			"auto_update_enabled": false,
		},
		"dns": object{
			"magic_dns":   false,
			"base_domain": "tailnet.test",
			// The default is true, which requires name servers.
			"override_local_dns": false,
		},
		"cli":                   object{"timeout": "30s"}, // 5 s is little on a loaded machine
		"logtail":               object{"enabled": false},
		"disable_check_updates": true,
		"log":                   object{"level": "info", "format": "text"},
	}
}

// headscalePolicy allows all traffic. Tags have to be defined, but need no owners, since
// keys give them.
func headscalePolicy(cfg HeadscaleConfig) object {
	owners := map[string][]string{}
	for _, tag := range cfg.Tags {
		owners[tag] = []string{}
	}
	approvers := map[netip.Prefix][]string{}
	for tag, routes := range cfg.AutoApprovers {
		owners[tag] = []string{}
		for _, route := range routes {
			approvers[route] = append(approvers[route], tag)
		}
	}
	return object{
		"tagOwners":     owners,
		"acls":          []object{{"action": "accept", "src": []string{"*"}, "dst": []string{"*:*"}}},
		"autoApprovers": object{"routes": approvers},
	}
}

// derpTemplate uses the lower-case names that Headscale's YAML parser requires for the
// fields of tailcfg.DERPMap, and unquoted region numbers, as strings are not accepted.
var derpTemplate = template.Must(template.New("derp.yaml").Parse(`regions:
{{- range .Regions}}
  {{.RegionID}}:
    regionid: {{.RegionID}}
    regioncode: {{.RegionCode}}
    regionname: {{.RegionName}}
    nodes:
    {{- range .Nodes}}
      - name: {{.Name}}
        regionid: {{.RegionID}}
        hostname: "{{.HostName}}"
        ipv4: "{{.IPv4}}"
        ipv6: "{{.IPv6}}"
        stunport: {{.STUNPort}}
        stuntestip: "{{.STUNTestIP}}"
        derpport: {{.DERPPort}}
        insecurefortests: {{.InsecureForTests}}
    {{- end}}
{{- end}}
`))

func headscaleDERPMap(r *derpServer) ([]byte, error) {
	var b bytes.Buffer
	err := derpTemplate.Execute(&b, r.derpMap())
	return b.Bytes(), err
}

// freePort returns a port that was free a moment ago. Headscale has to know its own URL
// before it listens.
func freePort(host netip.Addr) (netip.AddrPort, error) {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer ln.Close()
	return netip.AddrPortFrom(host, uint16(ln.Addr().(*net.TCPAddr).Port)), nil
}

func (h *Headscale) startServer() error {
	log, err := os.Create(h.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	serve := h.command(context.Background(), "serve")
	serve.Stdout, serve.Stderr = log, log
	if err := serve.Start(); err != nil {
		return err
	}
	h.serve, h.ended = serve, make(chan struct{})
	go func() {
		serve.Wait()
		close(h.ended)
	}()
	return nil
}

// awaitHealth waits until the server is healthy. Its error contains the server's log.
func (h *Headscale) awaitHealth(ctx context.Context) error {
	for {
		err := h.health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-h.ended:
			return fmt.Errorf("starting headscale: %s: %s", h.serve.ProcessState, h.Log())
		case <-ctx.Done():
			return fmt.Errorf("waiting for headscale to be healthy: %w: %s", err, h.Log())
		case <-time.After(headscalePoll):
		}
	}
}

func (h *Headscale) health(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/health", nil)
	if err != nil {
		return err
	}
	res, err := direct.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("/health: %s", res.Status)
	}
	return nil
}
