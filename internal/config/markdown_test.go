package config

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/docstest"
)

var update = flag.Bool("update", false, "write the generated part of docs/configuration.md")

// TestConfigurationDocument compares docs/configuration.md with the table.
func TestConfigurationDocument(t *testing.T) {
	docstest.Generated(t, "../../docs/configuration.md", "SETTINGS", markdown(), *update,
		"go test ./internal/config -run TestConfigurationDocument -update")
}

// markdown returns a list of all settings by group, then a section for each.
func markdown() string {
	var list, entries strings.Builder
	list.WriteString("| group | settings |\n| --- | --- |\n")
	for _, g := range groups {
		fmt.Fprintf(&entries, "\n## %s\n", g)
		var links []string
		for _, v := range variables {
			if v.group != g {
				continue
			}
			links = append(links, fmt.Sprintf("[`%s`](#%s)", v.name, strings.ToLower(v.name)))
			fmt.Fprintf(&entries, "\n### %s\n\n%s\n", v.name, escape(v.meaning))
			if v.details != "" {
				fmt.Fprintf(&entries, "\n%s\n", v.details)
			}
			entries.WriteString("\n| | |\n| --- | --- |\n")
			row := func(what, value string) { fmt.Fprintf(&entries, "| %s | %s |\n", what, value) }
			if v.flag != "" {
				row("flag", code("--"+v.flag))
			}
			if len(v.aliases) > 0 {
				names := make([]string, len(v.aliases))
				for i, a := range v.aliases {
					names[i] = code(a)
				}
				row("other names", strings.Join(names, ", "))
			}
			row("values", v.accepts)
			switch {
			case v.shown != "":
				row("default", v.shown)
			case v.fallback != "":
				row("default", code(v.fallback))
			}
			row("example", code(v.name+"="+v.sample))
			if v.name == extraArgs {
				entries.WriteString(upFlagTable())
			}
		}
		fmt.Fprintf(&list, "| %s | %s |\n", g, strings.Join(links, ", "))
	}
	return list.String() + entries.String() + officialTable() + "\n"
}

// upFlagTable returns the accepted flags of `tailscale up`.
func upFlagTable() string {
	var b strings.Builder
	b.WriteString("\n| accepted flag | effect |\n| --- | --- |\n")
	for _, f := range upFlags {
		switch {
		case f.instead != "":
			continue
		case f.variable != "":
			fmt.Fprintf(&b, "| `--%s` | sets [`%s`](#%s) |\n", f.name, f.variable, strings.ToLower(f.variable))
		case f.noEffect:
			fmt.Fprintf(&b, "| `--%s` | none |\n", f.name)
		default:
			fmt.Fprintf(&b, "| `--%s` | as for `tailscale up` |\n", f.name)
		}
	}
	b.WriteString("\nAny other flag is an error that says what to use instead.\n")
	return b.String()
}

// officialTable returns the answer to each variable of the official image.
func officialTable() string {
	rows := map[string]string{}
	for _, v := range variables {
		for _, name := range append([]string{v.name}, v.aliases...) {
			if slices.Contains(officialVariables, name) {
				rows[name] = fmt.Sprintf("sets [`%s`](#%s)", v.name, strings.ToLower(v.name))
			}
		}
	}
	for _, v := range servedByOfficial {
		rows[v.name] += " to " + v.how
	}
	for _, v := range egressByOfficial {
		rows[v.name] += " to " + v.how
	}
	for _, name := range []string{"TS_SOCKS5_SERVER", "TS_OUTBOUND_HTTP_PROXY_LISTEN"} {
		rows[name] += "; without a host, on all addresses"
	}
	rows["TS_ROUTES"] += "; outside ECS, with variables of this table only, none by default, as in the official image"
	rows["TS_USERSPACE"] += "; without `false` the ports of the node's addresses are closed, " +
		"unless `ROUTER_SERVE` has them: `*=localhost` leads each to localhost, as the official image does"
	for _, v := range officialRefused {
		rows[v.name] = "error (exit code 2): " + v.instead
	}
	for _, v := range officialIgnored {
		rows[v.name] = "warning: " + v.why
	}
	for _, v := range officialAlways {
		rows[v.name] = v.why
	}
	var b strings.Builder
	b.WriteString("\n## Drop-in: the variables of the official image\n\n" +
		"All variables of `tailscale/tailscale` v1.104.5, those of [its documentation](https://tailscale.com/docs/features/containers/docker/docker-params)\n" +
		"(as of 23 March 2026) among them, compared on 27 November 2026. An empty value is as good as none.\n\n| variable | here |\n| --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, rows[name])
	}
	return b.String()
}

func code(s string) string { return "`" + s + "`" }

// escape keeps wildcards from becoming emphasis.
func escape(s string) string { return strings.ReplaceAll(s, "*", `\*`) }

// TestDocumentedValues compares accepts and sample, which are prose, with the parsers.
func TestDocumentedValues(t *testing.T) {
	accepts := func(v variable, value string) bool {
		var c Config
		return v.set(&c, v.name, value) == nil
	}
	for _, v := range variables {
		if !slices.Contains(groups, v.group) || v.accepts == "" || v.sample == "" {
			t.Errorf("%s lacks its group, values or sample", v.name)
			continue
		}
		if !accepts(v, v.sample) {
			t.Errorf("%s refuses its sample %s", v.name, v.sample)
		}
		if bounds := v.bounds(); bounds != nil {
			lowest, highest := bounds[0], bounds[1]
			if !accepts(v, lowest) || !accepts(v, highest) || accepts(v, beyond(t, lowest, -1)) || accepts(v, beyond(t, highest, 1)) {
				t.Errorf("%s: %s is not its range", v.name, v.accepts)
			}
		}
		for _, choice := range v.choices() {
			if !accepts(v, choice) || accepts(v, choice+"x") {
				t.Errorf("%s: %s is not accepted, or only a part of a value", v.name, choice)
			}
		}
	}
}

// beyond returns the number or duration next to a bound.
func beyond(t *testing.T, value string, by int) string {
	t.Helper()
	if n, err := strconv.Atoi(value); err == nil {
		return strconv.Itoa(n + by)
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		t.Fatal(err)
	}
	return (d + time.Duration(by)).String()
}
