package config

import (
	"reflect"
	"testing"
)

// TestAllPorts: ROUTER_EGRESS=*=HOST and the variables of the official image for it, which need kernel mode.
func TestAllPorts(t *testing.T) {
	for _, tt := range []struct {
		env, all string
		ports    []EgressPort
	}{
		{"ROUTER_EGRESS=*=db", "db", nil},
		{"ROUTER_EGRESS= * = fd7a:115c:a1e0::9 ", "fd7a:115c:a1e0::9", nil},
		{"ROUTER_EGRESS=53/udp=ns:53,*=db.example.ts.net.,*=db.example.ts.net.", "db.example.ts.net.", []EgressPort{{"127.0.0.1:53", true, "ns:53"}}},
		{"TS_TAILNET_TARGET_IP=100.101.102.103", "100.101.102.103", nil},
		{"TS_TAILNET_TARGET_IP=fd7a:115c:a1e0::9", "fd7a:115c:a1e0::9", nil},
		{"TS_TAILNET_TARGET_FQDN=db.example.ts.net.", "db.example.ts.net.", nil},
	} {
		got := load(t, nil, tt.env, "TS_USERSPACE=false")
		if got.EgressAll != tt.all || !reflect.DeepEqual(got.Egress, tt.ports) || len(got.Warnings) > 0 {
			t.Errorf("%s: %q, %v, %q", tt.env, got.EgressAll, got.Egress, got.Warnings)
		}
	}
	if got, want := load(t, nil, "ROUTER_EGRESS=*=a", "TS_TAILNET_TARGET_FQDN=b", "ROUTER_MODE=kernel").Warnings, "TS_TAILNET_TARGET_FQDN: ignored: ROUTER_EGRESS is set to a different value and takes precedence"; len(got) != 1 || got[0] != want {
		t.Errorf("warnings %q, want %q", got, want)
	}

	const kernel = "ROUTER_MODE=kernel"
	for _, tt := range []struct{ env, mode, want string }{
		{"ROUTER_EGRESS=*=db", "ROUTER_MODE=auto", `ROUTER_EGRESS: "*=db" needs kernel mode: set ROUTER_MODE=kernel, or name each port, such as 0.0.0.0:5432=db:5432`},
		{"TS_TAILNET_TARGET_IP=fd7a:115c:a1e0::9", "TS_USERSPACE=true", `TS_TAILNET_TARGET_IP: "*=fd7a:115c:a1e0::9" needs kernel mode: set ROUTER_MODE=kernel, or name each port, such as 0.0.0.0:5432=[fd7a:115c:a1e0::9]:5432`},
		{"ROUTER_EGRESS=*=a,*=b", kernel, `ROUTER_EGRESS: all other ports have two targets: keep one`},
		{"ROUTER_EGRESS=*=169.254.169.254", kernel, `ROUTER_EGRESS: "169.254.169.254" is never in the tailnet (link-local): use the name or address of a node`},
		{"ROUTER_EGRESS=*=a:80", kernel, `ROUTER_EGRESS: "*=a:80" has a malformed port to listen on: write a port, or an address and a port, as in 0.0.0.0:5432=db:5432`},
		{"TS_TAILNET_TARGET_IP=db", kernel, `TS_TAILNET_TARGET_IP: "db" is not an address: write one such as 100.101.102.103`},
		{"TS_TAILNET_TARGET_FQDN=a_b", kernel, `TS_TAILNET_TARGET_FQDN: "a_b" is not a name: write one such as db.example.ts.net`},
	} {
		if got := problemsOf(nil, []string{tt.env, tt.mode}); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.env, got, tt.want)
		}
	}
}
