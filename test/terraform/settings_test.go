package terraform

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"subnetrouter/internal/config"
)

// settings are arguments of the module that determine the router's environment.
type settings map[string]any

var seed = os.Getenv("SETTINGS_SEED")

// TestSettings: a plan rejects exactly the settings that `router plan` rejects. The test
// generates them; SETTINGS_SEED replays a run.
func TestSettings(t *testing.T) {
	t.Parallel()
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		n = rand.Uint64()
	}
	t.Logf("SETTINGS_SEED=%d", n)
	g := generator{rand.New(rand.NewPCG(n, 0))}
	cases := slices.Clone(fixedSettings)
	for range 30 {
		cases = append(cases, g.settings())
	}
	refresh := filepath.Join(t.TempDir(), "refresh")
	if err := os.WriteFile(refresh, []byte("90s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases = append(cases, environmentOf("ROUTER_REFRESH", "file:"+refresh), settings{"auth_secret_arn": credential, "keepalive": "file:" + refresh})

	w := newWorkspace(t, nil)
	w.copy("settings", "testdata/settings")
	for _, f := range []string{"variables.tf", "settings.tf", "checks.tf"} {
		b, err := os.ReadFile(filepath.Join("../../deploy/terraform", f))
		if err != nil {
			t.Fatal(err)
		}
		w.write("settings/"+f, string(b))
	}
	refused, left, outputs := map[int]string{}, map[int]settings{}, map[string]outputValue{}
	for i, c := range cases {
		left[i] = c
	}
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(left)), settingsBatch) {
		w.planSettings(batch, left, refused, outputs)
	}
	if len(refused) < 20 || len(left) < 20 {
		t.Errorf("of %d cases, a plan rejects %d", len(cases), len(refused))
	}
	for i, c := range cases {
		env := c.environment()
		if _, ok := left[i]; ok {
			env = map[string]string{}
			if err := json.Unmarshal(outputs["c"+strconv.Itoa(i)].Value, &env); err != nil {
				t.Fatal(err)
			}
		}
		text, ok := routerAccepts(t, env)
		if _, accepted := left[i]; accepted != ok {
			t.Errorf("%s: terraform plan accepts it: %t, router plan: %t\nterraform: %s\nrouter: %s", hcl(t, c), accepted, ok, refused[i], text)
		}
	}
}

// settingsBatch is the number of cases of one plan: the time of a plan grows faster than its modules.
const settingsBatch = 16

// planSettings plans some of the cases in left together. It moves those that the plan rejects to refused,
// and adds the outputs of the others.
func (w workspace) planSettings(batch []int, left map[int]settings, refused map[int]string, outputs map[string]outputValue) {
	t := w.t
	t.Helper()
	root := fmt.Sprintf("root%d", batch[0])
	write := func() {
		main := ""
		for _, i := range batch {
			c, ok := left[i]
			if !ok {
				continue
			}
			main += fmt.Sprintf("module \"c%d\" {\n  source = \"../settings\"\n  case = %d\n", i, i)
			for k, v := range c {
				main += "  " + k + " = " + hcl(t, v) + "\n"
			}
			main += fmt.Sprintf("}\noutput \"c%d\" {\n  value = module.c%d.environment\n}\n", i, i)
		}
		w.write(root+"/main.tf", main)
	}
	write()
	w.init(root)
	// Terraform checks conditions between settings only if all variables are valid.
	for range 4 {
		out, err := w.try(root, "plan", "-out=plan")
		if err == nil {
			maps.Copy(outputs, w.plan(root).PlannedValues.Outputs)
			return
		}
		errs := strings.Split(out, "Error: ")[1:]
		for _, e := range errs {
			m := regexp.MustCompile(`module "c(\d+)"|case (\d+):`).FindStringSubmatch(e)
			if m == nil {
				t.Fatalf("an error outside of a module: %s", e)
			}
			i, err := strconv.Atoi(m[1] + m[2])
			if err != nil {
				t.Fatal(err)
			}
			refused[i] = e
			delete(left, i)
		}
		write()
	}
	t.Fatal("the plan still has errors")
}

// TestEnvironmentNames: the module accepts exactly the binary's ROUTER_ variables.
func TestEnvironmentNames(t *testing.T) {
	names := func(text string) []string {
		all := regexp.MustCompile(`\bROUTER_[A-Z0-9_]+`).FindAllString(text, -1)
		slices.Sort(all)
		return slices.Compact(all)
	}
	for _, v := range blocks(t, "variable") {
		if v.name != "environment" {
			continue
		}
		body := strings.ReplaceAll(strings.ReplaceAll(v.body, `starts with ROUTER_`, ""), `"ROUTER_"`, "")
		if got, want := names(body), names(config.Usage()); !slices.Equal(got, want) {
			t.Errorf("the variable environment accepts\n%q\nbut the router has\n%q", got, want)
		}
	}
}

// routerAccepts reports whether the binary accepts an environment, and returns its output.
func routerAccepts(t *testing.T, env map[string]string) (text string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(routerVar), "plan", "--iam")
	cmd.Env = []string{"AWS_REGION=eu-west-1", "TS_NO_LOGS_NO_SUPPORT=true", "ECS_CONTAINER_METADATA_URI_V4=http://127.0.0.1:1/v4"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		return string(out), false
	}
	return string(out), true
}

// environment returns the environment that the module would write for arguments that a plan
// rejects.
func (c settings) environment() map[string]string {
	env := map[string]string{}
	list := func(k string) string {
		s, _ := c[k].([]string)
		return strings.Join(s, ",")
	}
	set := func(name, v string) {
		if v != "" {
			env[name] = v
		}
	}
	if m, ok := c["environment"].(map[string]string); ok {
		maps.Copy(env, m)
	}
	set("ROUTER_ROUTES", list("routes"))
	set("ROUTER_EXCLUDE_ROUTES", list("exclude_routes"))
	set("ROUTER_DNS_ZONES", list("dns_zones"))
	set("ROUTER_PROBE", list("probes"))
	set("ROUTER_SERVE", list("serve"))
	set("ROUTER_PROXY_PROTOCOL", list("proxy_protocol"))
	set("ROUTER_EGRESS", list("egress"))
	set("ROUTER_TAGS", list("tailscale_tags"))
	for k, name := range map[string]string{"hostname": "ROUTER_HOSTNAME", "control_url": "ROUTER_CONTROL_URL", "additional_flags": "TS_EXTRA_ARGS", "auth_secret_arn": "ROUTER_AUTH_SECRET", "auth_secret_json_key": "ROUTER_AUTH_SECRET_KEY", "access": "ROUTER_ACCESS", "keepalive": "ROUTER_KEEPALIVE", "target_keepalive": "ROUTER_TARGET_KEEPALIVE", "socks5_listen": "ROUTER_SOCKS5_LISTEN", "http_proxy_listen": "ROUTER_HTTP_PROXY_LISTEN"} {
		if s, ok := c[k].(string); ok {
			set(name, s)
		}
	}
	if on, _ := c["access_cut"].(bool); on {
		env["ROUTER_ACCESS_CUT"] = "on"
	}
	if on, _ := c["flow_log"].(bool); on {
		env["ROUTER_FLOW_LOG"] = "on"
	}
	if on, _ := c["dns"].(bool); on {
		env["ROUTER_DNS"] = "on"
	}
	if on, _ := c["exit_node"].(bool); on {
		env["ROUTER_EXIT_NODE"] = "on"
	}
	if on, _ := c["app_connector"].(bool); on {
		env["ROUTER_APP_CONNECTOR"] = "on"
	}
	if port, ok := c["peer_relay_port"].(int); ok {
		env["ROUTER_PEER_RELAY"] = strconv.Itoa(port)
	}
	set("ROUTER_PEER_RELAY_ENDPOINTS", list("peer_relay_endpoints"))
	if on, _ := c["emf"].(bool); on {
		env["ROUTER_EMF"] = "on"
	}
	if on, _ := c["dns_register"].(bool); on {
		env["ROUTER_DNS_REGISTER"] = "on"
	}
	if site, ok := c["site_id"].(int); ok {
		env["ROUTER_SITE_ID"] = strconv.Itoa(site)
	}
	return env
}

// hcl returns a value as an expression. JSON is valid HCL, except for template sequences.
func hcl(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("${", "$${", "%{", "%%{", `\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(string(b))
}

const credential = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf"

func routesOf(r ...string) settings {
	return settings{"auth_secret_arn": credential, "routes": r}
}

func environmentOf(name, value string) settings {
	return settings{"auth_secret_arn": credential, "environment": map[string]string{name: value}}
}

func allPorts(egress ...string) settings {
	return settings{"auth_secret_arn": credential, "egress": egress, "environment": map[string]string{"ROUTER_MODE": "kernel"}}
}

func servesOf(s ...string) settings { return settings{"auth_secret_arn": credential, "serve": s} }

// fixedSettings returns the cases of every run.
var fixedSettings = []settings{
	routesOf("vpc"), routesOf("10.0.0.1/16"), routesOf("0.0.0.0/0"), routesOf("::/0"), routesOf("100.64.0.0/10"), routesOf("100.100.0.0/16"),
	routesOf("0.0.0.0/1", "128.0.0.0/1"), routesOf("0.0.0.0/1", "128.0.0.0/2"), routesOf("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2", "10.0.0.0/8"),
	routesOf("::/1", "8000::/1"), routesOf("169.254.169.254/32"), routesOf("169.0.0.0/8"), routesOf("fd00:ec2::254/128"), routesOf("fe80::/64"),
	routesOf("fd7a:115c:a1e0::/48"), routesOf("fd7a:115c:a1e0:b1a:0:7:a00:0/112"), routesOf("fd7a:115c:a1e0:b1a:0:7:a9fe:0/112"), routesOf("fd7a:115c:a1e0:b1a:1:7:a00:0/112"),
	routesOf("fd7a:115c:a1e0:b1a::/64"), routesOf("fd7a:115c:a1e0:b1a:0:7::/96"), routesOf("::ffff:10.0.0.0/104"), routesOf("010.0.0.0/8"), routesOf("10.0.0.0/08"),
	routesOf("10.0.0.0"), routesOf("10.0.0.0/33"), routesOf("FD12:3456::/32"), routesOf(" 10.0.0.0/16 "), routesOf("subnets:tier=private"), routesOf("subnets:tier"),
	routesOf("pl-0123abcd"), routesOf("pl-0"), routesOf("vpcs"), routesOf("rds:env=prod", "lb:Name=web-*", "host:db.example.com"), routesOf("rds:env"), routesOf("lb:=b"), routesOf("host:10.0.0.5"), routesOf("host:a.7."), routesOf("host:-a.example.com"), routesOf("host:"), routesOf("rds:a=b=c", "host:db."),
	routesOf("host:" + strings.Repeat("a123456789.", 23) + "a"), routesOf("host:" + strings.Repeat("a123456789.", 23) + "ab"), routesOf("peerings", "subnet"), routesOf("none"), routesOf("none", "none"), routesOf("none", "vpc"), {"auth_secret_arn": credential, "routes": []string{" none "}, "site_id": 0}, routesOf("224.0.0.0/4"), routesOf("255.255.255.255/32"),
	{"auth_secret_arn": credential, "dns_zones": []string{"auto", " Corp.Example.com. ", "_tcp.example", "20.10.in-addr.arpa"}},
	environmentOf("TS_TAILSCALED_EXTRA_ARGS", "1"), environmentOf("TS_DEST_IP", "1"), environmentOf("TS_TAILNET_TARGET_IP", "1"), environmentOf("TS_TAILNET_TARGET_FQDN", "1"), environmentOf("TS_SERVE_CONFIG", "1"),
	environmentOf("TS_KUBE_SECRET", "1"), environmentOf("TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR", "1"), environmentOf("TS_EGRESS_PROXIES_CONFIG_PATH", "1"), environmentOf("TS_INGRESS_PROXIES_CONFIG_PATH", "1"), environmentOf("TS_DEST_IP", ""),
	{"auth_secret_arn": credential, "peer_relay_port": 40000, "peer_relay_endpoints": []string{"203.0.113.7:40000", "[2001:db8::7]:40000"}}, {"auth_secret_arn": credential, "peer_relay_port": 41641},
	{"auth_secret_arn": credential, "peer_relay_endpoints": []string{"203.0.113.7:40000"}}, {"auth_secret_arn": credential, "peer_relay_port": 40000, "peer_relay_endpoints": []string{"nlb.example.com:40000"}},
	{"auth_secret_arn": credential, "peer_relay_port": 70000},
	{"auth_secret_arn": credential, "exit_node": true, "app_connector": true}, {"auth_secret_arn": credential, "additional_flags": "--advertise-exit-node --advertise-connector=false"},
	{"auth_secret_arn": credential, "additional_flags": "--advertise-exit-node=maybe"},
	{"auth_secret_arn": credential, "routes": []string{"none"}, "exit_node": true, "serve": []string{"80=localhost:8080"}}, {"auth_secret_arn": credential, "routes": []string{"none"}, "additional_flags": "--advertise-routes=vpc"},
	{"auth_secret_arn": credential, "routes": []string{"none"}, "dns": true}, {"auth_secret_arn": credential, "routes": []string{"none"}, "dns_zones": []string{"auto"}}, {"auth_secret_arn": credential, "routes": []string{"none"}, "exclude_routes": []string{"10.0.0.0/8"}},
	{"auth_secret_arn": credential, "dns_zones": []string{"10.0.0.2"}}, {"auth_secret_arn": credential, "dns_zones": []string{"-a.example"}}, {"auth_secret_arn": credential, "dns_zones": []string{"a..b"}},
	{"auth_secret_arn": credential, "dns_zones": []string{"."}}, {"auth_secret_arn": credential, "dns_zones": []string{"7."}},
	{"auth_secret_arn": credential, "dns_zones": []string{"auto"}, "dns_register": true}, {"auth_secret_arn": credential, "dns_register": true}, {"auth_secret_arn": credential, "dns_register": false},
	{"auth_secret_arn": credential, "routes": []string{"100.64.0.0/16"}, "site_id": 7},
	{"auth_secret_arn": credential, "routes": []string{"169.254.0.0/16"}, "site_id": 7},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MAX_FLOWS": "10", "ROUTER_MAX_FLOWS_PER_PEER": "11"}},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MAX_FLOW": "10"}},
	{"auth_secret_arn": credential, "environment": map[string]string{"TS_CLIENT_SECRET": "x"}},
	environmentOf("ROUTER_REFRESH", "1m30s"), environmentOf("ROUTER_REFRESH", "23h59m60s"), environmentOf("ROUTER_REFRESH", "24h0m1s"), environmentOf("ROUTER_REFRESH", "999ms"),
	environmentOf("ROUTER_BOOT_TIMEOUT", "1.5m"), environmentOf("ROUTER_BOOT_TIMEOUT", "5m0s"), environmentOf("ROUTER_BOOT_TIMEOUT", "1h1s"), environmentOf("ROUTER_BOOT_TIMEOUT", ".5h"),
	environmentOf("ROUTER_KEEPALIVE", "5s"), environmentOf("ROUTER_KEEPALIVE", "1h30m"), environmentOf("ROUTER_DEBUG_LISTEN", "127.0.0.1:6060"), environmentOf("ROUTER_DEBUG_LISTEN", "6060"),
	{"auth_secret_arn": credential, "keepalive": "60"}, {"auth_secret_arn": credential, "keepalive": "5s"}, {"auth_secret_arn": credential, "keepalive": "2h"}, {"auth_secret_arn": credential, "keepalive": "2h1ns"}, {"auth_secret_arn": credential, "keepalive": "+1m"}, {"auth_secret_arn": credential, "keepalive": " "},
	{"auth_secret_arn": credential, "keepalive": "2h,5432=10m"}, {"auth_secret_arn": credential, "keepalive": "22=1h, +443 = 60s"}, {"auth_secret_arn": credential, "keepalive": "2h,,5432=10m"},
	{"auth_secret_arn": credential, "keepalive": "5432=10m,05432=10m"}, {"auth_secret_arn": credential, "keepalive": "0=10m"}, {"auth_secret_arn": credential, "keepalive": "65536=10m"}, {"auth_secret_arn": credential, "keepalive": "x=10m,22=3h"},
	{"auth_secret_arn": credential, "keepalive": "1h,2h"}, {"auth_secret_arn": credential, "target_keepalive": "9s"}, {"auth_secret_arn": credential, "target_keepalive": "90s"}, {"auth_secret_arn": credential, "target_keepalive": "22=90s"},
	environmentOf("ROUTER_CONGESTION", "cubic"), environmentOf("ROUTER_TCP_STACK", "gvisor"), environmentOf("ROUTER_KEEPALIVE", "22=10m,1h"),
	environmentOf("ROUTER_DNS_REBIND_GUARD", "on"), environmentOf("ROUTER_DNS_REBIND_GUARD", "off"), environmentOf("ROUTER_DNS_REBIND_GUARD", "yes"),
	{"auth_secret_arn": credential, "dns": true, "environment": map[string]string{"ROUTER_DNS_REBIND_GUARD": "on"}},
	servesOf("443=localhost:8443", " 80=[fd12::1]:80 ", "22=db.internal:022"), servesOf("443=localhost:9002"), servesOf("443=127.0.0.2:9002"), servesOf("443=[::1]:9002"),
	servesOf("80=localhost:1", "080=localhost:2"), servesOf("443/tls=localhost:8080", "80=localhost:8080"), servesOf("443=a:1", "443/tls=a:1"), servesOf("*/tls=a"),
	{"auth_secret_arn": credential, "serve": []string{"80/http=10.0.3.4:443"}, "proxy_protocol": []string{"10.0.3.0/24:443"}}, {"auth_secret_arn": credential, "serve": []string{"80/http=10.0.3.4:444", "81/tls=10.0.3.4:443"}, "proxy_protocol": []string{"10.0.3.0/24:443"}},
	{"auth_secret_arn": credential, "serve": []string{"80/https=localhost:443"}, "proxy_protocol": []string{"[::1]:443"}}, {"auth_secret_arn": credential, "serve": []string{"80/https=db:443"}, "proxy_protocol": []string{"0.0.0.0/0:443"}},
	servesOf("443/https=localhost:3000", "80/http=localhost:3000"), servesOf("443/https=a:1", "443/tls=a:1"), servesOf("80/http=localhost:9002"), servesOf("*/http=a"), servesOf("443/httpx=a:1"), servesOf("443/udp=a:1"), servesOf("443/tls=localhost:9002"), servesOf("0=a:1"), servesOf("65536=a:1"), servesOf("1=a:65536"), servesOf("1=:80"), servesOf("*=10.0.3.4", "80=localhost:80"), servesOf("*=fd12::1"), servesOf("*=fd12:::1"), servesOf("*=169.254.170.2"), servesOf("*=a", "*=b"), servesOf("*=a:80"), servesOf("*="), servesOf("1=a"), servesOf("1=169.254.169.254:80"), servesOf("1=[fd00:ec2::254]:80"), servesOf("1=[::g]:80"),
	{"auth_secret_arn": credential, "serve": []string{"9002=localhost:80"}, "environment": map[string]string{"ROUTER_TAILNET_STATUS": "on"}}, servesOf("9002=localhost:80"),
	// The same element twice.
	servesOf("443=localhost:1", " 443=localhost:1"), servesOf("443=localhost:1", "0443=localhost:01"), servesOf("443=localhost:1", "443=localhost:1", "443=localhost:2"), servesOf("*=a", "*=a"),
	routesOf("10.0.0.0/16", "10.0.0.0/16"), routesOf("vpc", "vpc"), routesOf("10.0.0.1/16", "10.0.0.1/16"), {"auth_secret_arn": credential, "exclude_routes": []string{"10.0.0.0/16", "10.0.0.0/16"}},
	{"auth_secret_arn": credential, "probes": []string{"10.0.3.4:5432", "10.0.3.4:5432"}}, {"auth_secret_arn": credential, "proxy_protocol": []string{"10.0.3.0/24:443", "10.0.3.0/24:443"}},
	{"auth_secret_arn": credential, "dns_zones": []string{"auto", "auto", "corp.example.com", "corp.example.com"}}, {"auth_secret_arn": credential, "tailscale_tags": []string{"tag:a", "tag:a"}},
	{"auth_secret_arn": credential, "serve": []string{"80=localhost:6060"}, "environment": map[string]string{"ROUTER_DEBUG_LISTEN": ":6060"}},
	{"auth_secret_arn": credential, "dns": true, "environment": map[string]string{"ROUTER_MODE": "kernel"}, "site_id": 7},
	{"auth_secret_arn": credential, "socks5_listen": "0.0.0.0:1080", "http_proxy_listen": "[::]:1080"}, {"auth_secret_arn": credential, "socks5_listen": ":1080", "http_proxy_listen": " off "},
	{"auth_secret_arn": credential, "socks5_listen": "1080"}, {"auth_secret_arn": credential, "http_proxy_listen": "0.0.0.0:0"}, {"auth_secret_arn": credential, "http_proxy_listen": "[::1:80"},
	{"auth_secret_arn": credential, "egress": []string{"5432=db:5432", " 0.0.0.0:5353/udp = ns.example.ts.net:53 ", "[::]:1/tcp=[fd7a:115c:a1e0::9]:2", ":3=100.64.0.9:4"}},
	{"auth_secret_arn": credential, "egress": []string{"*=db"}},
	allPorts("*=db"), allPorts(" * = fd7a:115c:a1e0::9 ", "53=a:1"), allPorts("*=db.example.ts.net.", "*=db.example.ts.net."), allPorts("*=a", "*=b"), allPorts("*=a:80"), allPorts("*=169.254.169.254"), allPorts("*=fd00:ec2::254"), allPorts("*="), allPorts("*=fd12:::1"), allPorts("*/udp=a"),
	{"auth_secret_arn": credential, "egress": []string{"53=a:1", "53/udp=b:2"}}, {"auth_secret_arn": credential, "egress": []string{"53=a:1", "127.0.0.1:53=b:2"}}, {"auth_secret_arn": credential, "egress": []string{"53=a:1", "53=a:1"}},
	{"auth_secret_arn": credential, "serve": []string{"80=localhost:1080"}, "socks5_listen": ":1080"}, {"auth_secret_arn": credential, "serve": []string{"80=localhost:53"}, "egress": []string{"53/udp=a:1"}}, {"auth_secret_arn": credential, "serve": []string{"80=localhost:54"}, "egress": []string{"53=a:1"}},
	{"auth_secret_arn": credential, "egress": []string{"5432"}}, {"auth_secret_arn": credential, "egress": []string{"5432/sctp=db:5432"}}, {"auth_secret_arn": credential, "egress": []string{"off=db:5432"}}, {"auth_secret_arn": credential, "egress": []string{"5432=db"}},
	{"auth_secret_arn": credential, "egress": []string{"5432=:5432"}}, {"auth_secret_arn": credential, "egress": []string{"65536=db:5432"}}, {"auth_secret_arn": credential, "egress": []string{"5432=db:0"}}, {"auth_secret_arn": credential, "egress": []string{"80=169.254.169.254:80"}}, {"auth_secret_arn": credential, "egress": []string{"80=a=b:80"}},
	{"auth_secret_arn": credential + ":a::", "auth_secret_json_key": "b"},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel", "ROUTER_MAX_FLOWS": "100"}},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel", "ROUTER_CONGESTION": "cubic"}, "site_id": 7},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel"}, "flow_log": true},
	{"auth_secret_arn": credential, "access": "grants", "access_cut": true}, {"auth_secret_arn": credential, "access": "report"}, {"auth_secret_arn": credential, "access": "grant"},
	{"auth_secret_arn": credential, "access_cut": true}, {"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel"}, "access": "grants", "site_id": 7},
	{"auth_secret_arn": credential, "proxy_protocol": []string{"10.0.3.0/24:443", " 10.0.4.1:80 ", "[2001:db8::1]:443", "2001:db8::/64:443", "[2001:db8::/64]:443"}},
	{"auth_secret_arn": credential, "proxy_protocol": []string{"10.0.3.1/24:443"}}, {"auth_secret_arn": credential, "proxy_protocol": []string{"10.0.3.0/24"}}, {"auth_secret_arn": credential, "proxy_protocol": []string{"10.0.3.0/24:65536"}},
	{"auth_secret_arn": credential, "proxy_protocol": []string{"host:443"}}, {"auth_secret_arn": credential, "proxy_protocol": []string{"2001:db8::1:443"}}, {"auth_secret_arn": credential, "proxy_protocol": []string{"2001:db8::1/64:443"}},
	{"auth_secret_arn": credential, "proxy_protocol": []string{"10.0.3.0/24:443"}, "environment": map[string]string{"ROUTER_MODE": "kernel"}},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel"}, "emf": true},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel"}, "emf": true, "site_id": 7},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "kernel"}, "keepalive": "1h"},
	{"auth_secret_arn": credential, "environment": map[string]string{"ROUTER_MODE": "userspace"}, "target_keepalive": "1m"},
	{"auth_secret_arn": credential, "additional_flags": "--snat-subnet-routes=false"},
	{"auth_secret_arn": credential, "additional_flags": "--snat-subnet-routes=false", "environment": map[string]string{"ROUTER_MODE": "kernel"}},
}

type generator struct{ *rand.Rand }

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

// settings generates arguments, one kind of which is unusual.
func (g generator) settings() settings {
	c := settings{"auth_secret_arn": credential}
	switch g.IntN(11) {
	case 0, 1, 2:
		for range 1 + g.IntN(3) {
			r, _ := c["routes"].([]string)
			c["routes"] = append(r, pick(g, g.cidr, g.cidr, g.source)())
		}
		if g.IntN(3) == 0 {
			c["site_id"] = pick(g, 0, 7, 65535)
		}
	case 3:
		c["exclude_routes"] = []string{g.cidr(), g.cidr()}
	case 4:
		c["probes"] = []string{g.host() + ":" + pick(g, "5432", "443", "0", "65535", "65536", "http", "")}
	case 5:
		c["hostname"] = pick(g, "edge", "edge-1", "-edge", "edge_1", "e.dge", strings.Repeat("a", 63), strings.Repeat("a", 64), "1", "生产")
		c["tailscale_tags"] = []string{pick(g, "tag:a", "tag:prod-1", "prod", "tag:", "tag:1a", "tag:a_b", "tag:A")}
	case 6:
		c["control_url"] = pick(g, "https://headscale.example.com", "http://10.0.0.1:8080/base", "https://[fd00::1]:443", "headscale.example.com", "ftp://a.example", "https://user:pw@a.example", "https://a.example/?q", "https://:443", "https://a.example/#f", "https://a.example:port")
	case 7:
		c["additional_flags"] = pick(g,
			"--accept-routes", "--accept-routes=maybe", "--reset --timeout=30s", "--timeout 1m", "--timeout", "accept-routes", "--ssh", "--netfilter-mode=off", "--netfilter-mode=on",
			"--advertise-tags=tag:edge", "--advertise-tags=edge,db", "--hostname=edge", "--hostname=ed_ge", "--advertise-routes=10.1.0.0/16", "--advertise-routes=10.1.0.1/16",
			"--advertise-routes=0.0.0.0/0", "--login-server=https://headscale.example.com", "--login-server=headscale", "--accept-dns=false", "--unknown", "-accept-routes", "--stateful-filtering=1")
	case 8:
		name := pick(g, "ROUTER_MODE", "ROUTER_REFRESH", "ROUTER_BOOT_TIMEOUT", "ROUTER_MAX_FLOWS", "ROUTER_STATUS_PAGE", "ROUTER_LOG_FORMAT", "ROUTER_API_URL", "ROUTER_SOCKET", "ROUTER_TYPO", "OTHER")
		c["environment"] = map[string]string{name: pick(g, "on", "off", "auto", "kernel", "json", "5m", "90s", "0s", "25h", "24h", "61m", "100", "0", "10000001", "/run/ts.sock", "run/ts.sock", "https://api.example.com", "x y")}
	case 9:
		if d := g.duration(); g.IntN(2) == 0 {
			c["keepalive"] = d
		} else {
			c["environment"] = map[string]string{pick(g, "ROUTER_REFRESH", "ROUTER_BOOT_TIMEOUT", "ROUTER_KEEPALIVE"): d}
		}
	case 10:
		c["environment"] = map[string]string{"ROUTER_DEBUG_LISTEN": pick(g, g.host(), "localhost", "") + pick(g, ":6060", ":0", ":65535", ":65536", ":http", ":", "", ":06060")}
	}
	return c
}

func (g generator) cidr() string {
	base := pick(g, "10.0.0.0", "192.168.4.0", "172.16.0.0", "100.64.0.0", "169.254.0.0", "127.0.0.0", "0.0.0.0", "224.0.0.0", "fd12:3456::", "fd7a:115c:a1e0:b1a::", "fd00:ec2::", "fe80::", "ff00::", "2001:db8::", "::")
	a := netip.MustParseAddr(base)
	if g.IntN(3) == 0 { // set host bits
		raw := a.AsSlice()
		raw[len(raw)-1-g.IntN(3)] = byte(g.IntN(256))
		a, _ = netip.AddrFromSlice(raw)
	}
	p := netip.PrefixFrom(a, g.IntN(a.BitLen()+1))
	if g.IntN(2) == 0 {
		p = p.Masked()
	}
	return p.String()
}

// duration generates a duration of up to three parts, or an invalid one.
func (g generator) duration() string {
	if g.IntN(5) == 0 {
		return pick(g, "60", "1m 30s", "-1m", "+1m", "1d", "m", "1.m", ".5m", ".m", "1..5m", "0", "file", " 1m ", "1M", "1h0.5")
	}
	d := ""
	for range 1 + g.IntN(3) {
		d += pick(g, "0", "1", "2", "9", "30", "59", "90", "1.5", "0.25", "3600") + pick(g, "h", "m", "m", "s", "s", "ms", "us", "µs", "ns")
	}
	return d
}

func (g generator) source() string {
	return pick(g, "vpc", "subnet", "peerings", "subnets:a=b", "subnets:a=b=c", "subnets:=b", "subnets:a=", "pl-0123abcd", "pl-xyz", "pl-0123456789abcdef01", "rds:a=b", "lb:a", "host:"+strings.Trim(g.host(), "[]"), "all", "10.0.0.0")
}

func (g generator) host() string {
	return pick(g, "10.0.3.4", "db.internal", "db.internal.", "[fd12::1]", "169.254.169.254", "127.0.0.1", "[::1]", "[fd00:ec2::254]", "10.0.0.256", "-db", "d_b", "[::g]", "0.0.0.0", "", "[fe80::1]", "224.0.0.1")
}
