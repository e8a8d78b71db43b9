package config

import (
	"slices"
	"strings"
)

// Variables of the official image (cmd/containerboot of v1.104.5) that are no settings here. One
// that asks for something else than a subnet router is refused, with the setting to use instead:
// a container that runs without it would look as if it worked. Those in officialAlways cause
// nothing: they enable features that are always on, or are for tests and Kubernetes.
var (
	officialRefused = []struct{ name, instead string }{
		{"TS_CLIENT_SECRET", "not read: give the OAuth client secret as TS_AUTHKEY, or store it in Secrets Manager and name it in ROUTER_AUTH_SECRET"},
		{"TS_ID_TOKEN", "not read: remove it; the router gets its tokens itself, see TS_CLIENT_ID"},
		{"TS_TAILSCALED_EXTRA_ARGS", "not read: there is no separate tailscaled; use ROUTER_UDP_PORT, ROUTER_STATE, ROUTER_MODE and ROUTER_SOCKET"},
		{"TS_KUBE_SECRET", "not supported: state is not stored in Kubernetes; use ROUTER_STATE"},
		{"TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR", "not supported: there is no configuration file; use variables"},
		{"TS_EGRESS_PROXIES_CONFIG_PATH", "not supported: it is for the proxies of the Kubernetes operator; run the official image for them"},
		{"TS_INGRESS_PROXIES_CONFIG_PATH", "not supported: it is for the proxies of the Kubernetes operator; run the official image for them"},
	}
	officialIgnored = []struct{ name, why string }{}
	officialAlways  = []struct{ name, why string }{
		{"TS_ACCEPT_DNS", "none: the router uses the VPC's resolver; `true` is a warning"},
		{"TS_AUTH_ONCE", "none: the router logs in only when control asks for it"},
		{"TS_ENABLE_HEALTH_CHECK", "none: `/healthz` is always served, on `ROUTER_LISTEN`"},
		{"TS_ENABLE_METRICS", "none: `/metrics` is always served, on `ROUTER_LISTEN`"},
		{"TS_EXPERIMENTAL_ENABLE_FORWARDING_OPTIMIZATIONS", "none: it tunes the host of kernel mode"},
		{"TS_EXPERIMENTAL_CERT_SHARE", kubernetesOnly},
		{"TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT", kubernetesOnly},
		{"TS_KUBERNETES_READ_API_SERVER_ADDRESS_FROM_ENV", kubernetesOnly},
		{"TS_TEST_FAKE_NETFILTER", testsOnly},
		{"TS_TEST_ONLY_ROOT", testsOnly},
	}
)

const (
	kubernetesOnly = "none: it is for the Kubernetes operator"
	testsOnly      = "none: it is for tests of the image"
)

// unsupported reports variables of the official image that have no effect here, so that a
// migration from it does not fail silently.
func (in input) unsupported(r *report) {
	for _, v := range officialRefused {
		if strings.TrimSpace(in.env[v.name]) != "" {
			r.problemf("", v.name, v.instead)
		}
	}
	for _, v := range officialIgnored {
		if strings.TrimSpace(in.env[v.name]) != "" {
			r.warn(v.name, v.why)
		}
	}
	if on, err := parseBool(strings.TrimSpace(in.env["TS_ACCEPT_DNS"])); err == nil && on {
		r.warn("TS_ACCEPT_DNS", dnsIgnored)
	}
}

// isOfficial reports whether the official image has a variable of that name that is not a setting
// here, and is not refused.
func isOfficial(name string) bool {
	return slices.ContainsFunc(slices.Concat(officialIgnored, officialAlways), func(v struct{ name, why string }) bool { return v.name == name })
}
