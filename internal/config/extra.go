package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/suggest"

	"github.com/kballard/go-shellquote"
)

// upFlag describes a flag of `tailscale up` in TS_EXTRA_ARGS: it sets a variable, is
// applied to the configuration, or is refused with advice.
type upFlag struct {
	name    string
	boolean bool // takes a value only after "="

	variable  string                    // the variable that it sets, unless that is set itself
	translate func(value string) string // into the variable's notation

	apply    func(c *Config, value string) (warning string, err error)
	noEffect bool // accepted, since official configurations have it

	instead string // the advice for a refused flag
}

// The flags of v1.104.5 (cmd/tailscale/cli/up.go) and, at the end, flags of tailscaled, which
// people confuse with them.
var upFlags = []upFlag{
	{name: "hostname", variable: "ROUTER_HOSTNAME"},
	{name: "advertise-tags", variable: "ROUTER_TAGS", translate: fullTags},
	{name: "advertise-routes", variable: "ROUTER_ROUTES"},
	{name: "login-server", variable: "ROUTER_CONTROL_URL"},
	{name: "timeout", variable: "ROUTER_BOOT_TIMEOUT", translate: boundedTimeout},
	{name: "advertise-exit-node", boolean: true, variable: "ROUTER_EXIT_NODE", translate: onOff},
	{name: "advertise-connector", boolean: true, variable: "ROUTER_APP_CONNECTOR", translate: onOff},
	{name: "relay-server-port", variable: "ROUTER_PEER_RELAY"},
	{name: "relay-server-static-endpoints", variable: "ROUTER_PEER_RELAY_ENDPOINTS"},
	{name: "accept-routes", boolean: true, apply: boolean(func(c *Config, on bool) { c.AcceptRoutes = on })},
	{name: "snat-subnet-routes", boolean: true, apply: boolean(func(c *Config, on bool) { c.SNAT = on })},
	{name: "stateful-filtering", boolean: true, apply: boolean(func(c *Config, on bool) { c.StatefulFiltering = on })},
	{name: "accept-dns", boolean: true, apply: ignoreDNS, noEffect: true},
	{name: "reset", boolean: true, apply: boolean(func(*Config, bool) {}), noEffect: true}, // every start resets the preferences
	{name: "netfilter-mode", apply: netfilterMode, noEffect: true},

	{name: "auth-key", instead: "give the key as TS_AUTHKEY, or store it in Secrets Manager and name it in ROUTER_AUTH_SECRET"},
	{name: "authkey", instead: "give the key as TS_AUTHKEY, or store it in Secrets Manager and name it in ROUTER_AUTH_SECRET"},
	{name: "client-secret", instead: "give the OAuth client secret as TS_AUTHKEY, or store it in Secrets Manager and name it in ROUTER_AUTH_SECRET"},
	{name: "id-token", instead: "remove it: the router gets its tokens itself; see TS_CLIENT_ID"},
	{name: "client-id", instead: "use TS_CLIENT_ID"},
	{name: "audience", instead: "use TS_AUDIENCE"},
	{name: "exit-node", instead: "remove it: the router sends its traffic into the VPC, not through an exit node"},
	{name: "exit-node-allow-lan-access", boolean: true, instead: "remove it: the router sends its traffic into the VPC, not through an exit node"},
	{name: "shields-up", boolean: true, instead: "remove it: it would block all traffic through the router; restrict access in the tailnet's policy"},
	{name: "ssh", boolean: true, instead: "remove it: there is no SSH server in the router; use ECS Exec"},
	{name: "report-posture", boolean: true, instead: "remove it: device posture does not apply to a subnet router"},
	{name: "operator", instead: "remove it: every user who can open ROUTER_SOCKET can use it"},
	{name: "unattended", boolean: true, instead: "remove it: it is for Windows"},
	{name: "host-routes", boolean: true, instead: "remove it: Tailscale dropped it"},
	{name: "force-reauth", boolean: true, instead: "remove it: the router registers when control asks for it"},
	{name: "accept-risk", instead: "remove it: the router never asks"},
	{name: "json", boolean: true, instead: "remove it: logs are JSON already; see ROUTER_LOG_FORMAT"},
	{name: "qr", boolean: true, instead: "remove it: the router does not log in interactively"},
	{name: "qr-format", instead: "remove it: the router does not log in interactively"},
	{name: "nickname", instead: "remove it: there is one account"},

	{name: "tun", instead: "a flag of tailscaled: use ROUTER_MODE"},
	{name: "state", instead: "a flag of tailscaled: use ROUTER_STATE"},
	{name: "statedir", instead: "a flag of tailscaled: use ROUTER_STATE"},
	{name: "socket", instead: "a flag of tailscaled: use ROUTER_SOCKET"},
	{name: "port", instead: "a flag of tailscaled: use ROUTER_UDP_PORT"},
}

// extraSettings reads TS_EXTRA_ARGS. It returns the flags that correspond to a variable as
// settings of that variable, and applies the others to c. Problems with refused flags do not
// show the value, which may be a key.
func extraSettings(args setting, c *Config, r *report) map[string]setting {
	settings := map[string]setting{}
	words, err := splitWords(args.value)
	if err != nil {
		r.problem(extraArgs, args.name, err)
		return settings
	}
	for i := 0; i < len(words); i++ {
		body, isFlag := strings.CutPrefix(words[i], "-")
		name, value, hasValue := strings.Cut(strings.TrimPrefix(body, "-"), "=")
		if !isFlag || !label.MatchString(name) {
			r.problemf(extraArgs, args.name, fmt.Sprintf("word %d is not a flag (and not shown, as it may be a credential): write --flag=value", i+1))
			continue
		}
		spelled := args.name + " --" + name
		next := i+1 < len(words) && !strings.HasPrefix(words[i+1], "-")

		index := slices.IndexFunc(upFlags, func(f upFlag) bool { return f.name == name })
		if index < 0 || upFlags[index].instead != "" {
			if !hasValue && next {
				i++
			}
			r.problemf(extraArgs, spelled, refuseUp(index, name))
			continue
		}

		f := upFlags[index]
		switch {
		case hasValue:
		case f.boolean:
			value = "true"
		case next:
			i++
			value = words[i]
		default:
			r.problemf(extraArgs, spelled, "the value is missing: write --"+name+"=VALUE")
			continue
		}
		if f.variable != "" {
			if f.translate != nil {
				value = f.translate(value)
			}
			settings[f.variable] = setting{spelled, value}
			continue
		}
		warning, err := f.apply(c, value)
		if err != nil {
			r.problem(extraArgs, spelled, err)
		}
		if warning != "" {
			r.warn(spelled, warning)
		}
	}
	return settings
}

// refuseUp returns the advice for upFlags[index], or for an unknown flag if index is
// negative.
func refuseUp(index int, name string) string {
	if index >= 0 {
		return "not for this router: " + upFlags[index].instead
	}
	var names []string
	for _, f := range upFlags {
		if f.instead == "" {
			names = append(names, f.name)
		}
	}
	if near := suggest.Nearest(name, names); near != "" {
		return "no such flag of `tailscale up`; did you mean --" + near + "?"
	}
	return "no such flag of `tailscale up`: remove it"
}

func boolean(set func(*Config, bool)) func(*Config, string) (string, error) {
	return func(c *Config, value string) (string, error) {
		on, err := parseBool(value)
		if err == nil {
			set(c, on)
		}
		return "", err
	}
}

// onOff returns the switch for a boolean. Another value stays, for the error of the switch.
func onOff(value string) string {
	on, err := parseBool(value)
	switch {
	case err != nil:
		return value
	case on:
		return "on"
	}
	return "off"
}

const dnsIgnored = "ignored: the router uses the VPC's resolver, never the tailnet's DNS settings"

func ignoreDNS(_ *Config, value string) (warning string, err error) {
	if on, err := parseBool(value); err != nil || !on {
		return "", err
	}
	return dnsIgnored, nil
}

func netfilterMode(_ *Config, value string) (warning string, err error) {
	if value != "on" {
		return "", fmt.Errorf("%s is not supported: remove it; the router sets up netfilter itself in kernel mode, and userspace mode has none", quote(value))
	}
	return "", nil
}

// fullTags adds the "tag:" that is optional in `tailscale up`.
func fullTags(value string) string {
	tags := strings.Split(value, ",")
	for i, t := range tags {
		if t = strings.TrimSpace(t); t != "" && !strings.Contains(t, ":") {
			tags[i] = "tag:" + t
		}
	}
	return strings.Join(tags, ",")
}

// boundedTimeout removes a timeout of zero, which means none: the router never gives up.
func boundedTimeout(value string) string {
	if d, err := time.ParseDuration(value); err == nil && d == 0 {
		return ""
	}
	return value
}

// splitWords splits s as a POSIX shell does, without expansions.
func splitWords(s string) ([]string, error) {
	words, err := shellquote.Split(s)
	switch {
	case errors.Is(err, shellquote.UnterminatedSingleQuoteError):
		return nil, errors.New("a single quote is not closed: close it, or escape it with a backslash")
	case errors.Is(err, shellquote.UnterminatedDoubleQuoteError):
		return nil, errors.New("a double quote is not closed: close it, or escape it with a backslash")
	case err != nil:
		return nil, errors.New("ends with an unescaped backslash: remove it")
	}
	return words, nil
}
