package config

import (
	"slices"
	"strings"
)

// Variables of the official image (cmd/containerboot of v1.104.5) that have a different
// meaning here, or none. Those in officialSilent cause no warning: they enable features that
// are always on, or are for tests and Kubernetes.
var (
	officialRefused = []struct{ name, instead string }{
		{"TS_CLIENT_SECRET", "not read: give the OAuth client secret as TS_AUTHKEY, or store it in Secrets Manager and name it in ROUTER_AUTH_SECRET"},
		{"TS_ID_TOKEN", "not read: remove it; the router gets its tokens itself, see TS_CLIENT_ID"},
	}
	officialIgnored = []struct{ name, why string }{
		{"TS_TAILSCALED_EXTRA_ARGS", "ignored: there is no separate tailscaled; see ROUTER_UDP_PORT, ROUTER_STATE, ROUTER_MODE and ROUTER_SOCKET"},
		{"TS_DEST_IP", "ignored: the router forwards routes, not single ports"},
		{"TS_EXPERIMENTAL_DEST_DNS_NAME", "ignored: the router forwards routes, not single ports"},
		{"TS_TAILNET_TARGET_IP", "ignored: the router forwards from the tailnet, not into it"},
		{"TS_TAILNET_TARGET_FQDN", "ignored: the router forwards from the tailnet, not into it"},
		{"TS_SERVE_CONFIG", "ignored: the router serves nothing of its own"},
		{"TS_SOCKS5_SERVER", "ignored: there is no proxy into the tailnet"},
		{"TS_OUTBOUND_HTTP_PROXY_LISTEN", "ignored: there is no proxy into the tailnet"},
		{"TS_HEALTHCHECK_ADDR_PORT", "ignored: health is served on ROUTER_LISTEN"},
		{"TS_KUBE_SECRET", "ignored: state lives where ROUTER_STATE says"},
		{"TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR", "ignored: there is no configuration file; write variables"},
		{"TS_EGRESS_PROXIES_CONFIG_PATH", "ignored: the router forwards from the tailnet, not into it"},
		{"TS_INGRESS_PROXIES_CONFIG_PATH", "ignored: the router forwards routes, not single ports"},
	}
	officialSilent = []string{
		"TS_ACCEPT_DNS", "TS_AUTH_ONCE", "TS_ENABLE_HEALTH_CHECK", "TS_ENABLE_METRICS",
		"TS_EXPERIMENTAL_CERT_SHARE", "TS_EXPERIMENTAL_ENABLE_FORWARDING_OPTIMIZATIONS", "TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT",
		"TS_KUBERNETES_READ_API_SERVER_ADDRESS_FROM_ENV", "TS_TEST_FAKE_NETFILTER", "TS_TEST_ONLY_ROOT",
	}
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

// isOfficial reports whether the official image has a variable of that name
// that is not a setting here.
func isOfficial(name string) bool {
	for _, v := range officialIgnored {
		if v.name == name {
			return true
		}
	}
	return slices.Contains(officialSilent, name)
}
