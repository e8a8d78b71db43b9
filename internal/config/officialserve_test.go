package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestServeOfOfficialVariables(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "serve.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		env  []string
		want []Serve
	}{
		{[]string{"TS_DEST_IP=10.0.3.4"}, []Serve{{0, "10.0.3.4", ServeTCP}}},
		{[]string{"TS_DEST_IP=fd12::4"}, []Serve{{0, "fd12::4", ServeTCP}}},
		{[]string{"TS_EXPERIMENTAL_DEST_DNS_NAME=db.internal"}, []Serve{{0, "db.internal", ServeTCP}}},
		{[]string{"TS_SERVE_CONFIG=" + file(`{"TCP": {"443": {"TCPForward": "localhost:8443"}, "22": {"TCPForward": "[fd12::4]:22"}}, "AllowFunnel": {"a:443": false}}`)},
			[]Serve{{22, "[fd12::4]:22", ServeTCP}, {443, "localhost:8443", ServeTCP}}},
		{[]string{"TS_SERVE_CONFIG=" + file(`{"TCP": {"443": {"TCPForward": "localhost:8080", "TerminateTLS": "${TS_CERT_DOMAIN}"}}}`)},
			[]Serve{{443, "localhost:8080", ServeTLS}}},
		// The file of Tailscale's documentation for containers.
		{[]string{"TS_SERVE_CONFIG=" + file(`{"TCP": {"443": {"HTTPS": true}}, "Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}},
			"AllowFunnel": {"${TS_CERT_DOMAIN}:443": false}}`)}, []Serve{{443, "127.0.0.1:3000", ServeHTTPS}}},
		{[]string{"TS_SERVE_CONFIG=" + file(`{"TCP": {"80": {"HTTP": true}, "443": {"HTTPS": true}, "8443": {"HTTPS": true}, "9": {"TCPForward": "a:9"}},
			"Web": {"${TS_CERT_DOMAIN}:80": {"Handlers": {"/": {"Proxy": "3000"}}}, "${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Proxy": "localhost:3001"}}},
			"${TS_CERT_DOMAIN}:8443": {"Handlers": {"/": {"Proxy": "http://[fd12::4]/"}}}}}`)},
			[]Serve{{443, "localhost:3001", ServeHTTPS}, {80, "127.0.0.1:3000", ServeHTTP}, {8443, "[fd12::4]:80", ServeHTTPS}, {9, "a:9", ServeTCP}}},
	} {
		if got := load(t, nil, tt.env...); !reflect.DeepEqual(got.Serve, tt.want) || len(got.Warnings) > 0 {
			t.Errorf("%s: %v, %q", tt.env, got.Serve, got.Warnings)
		}
	}
	if got, want := load(t, nil, "ROUTER_SERVE=80=localhost:80", "TS_DEST_IP=10.0.3.4").Warnings, "TS_DEST_IP: ignored: ROUTER_SERVE is set to a different value and takes precedence"; len(got) != 1 || got[0] != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
	// The configuration does not know the node's name.
	named := file(`{"TCP": {"80": {"HTTP": true}, "8443": {"HTTPS": true}}, "Web": {"edge.tail1234.ts.net:80": {"Handlers": {"/": {"Proxy": "3000"}}},
		"${TS_CERT_DOMAIN}:8443": {"Handlers": {"/": {"Proxy": "http://[fd12::4]/"}}}, "edge:8443": {"Handlers": {"/": {"Proxy": "http://[fd12::4]:80"}}}}}`)
	c := load(t, nil, "TS_SERVE_CONFIG="+named)
	if want := []string{
		`TS_SERVE_CONFIG: the Web entry "edge.tail1234.ts.net:80" is served under the router's own name, also if that is another: write ${TS_CERT_DOMAIN}:80, or remove an entry for another node`,
		`TS_SERVE_CONFIG: the Web entry "edge:8443" is served under the router's own name, also if that is another: write ${TS_CERT_DOMAIN}:8443, or remove an entry for another node`,
	}; !reflect.DeepEqual(c.Warnings, want) || !reflect.DeepEqual(c.Serve, []Serve{{80, "127.0.0.1:3000", ServeHTTP}, {8443, "[fd12::4]:80", ServeHTTPS}}) {
		t.Errorf("%v, warnings %q, want %q", c.Serve, c.Warnings, want)
	}
	if c := load(t, nil, "TS_SERVE_CONFIG="+named, "ROUTER_SERVE=80/http=127.0.0.1:3000,8443/https=[fd12::4]:80"); len(c.Warnings) > 0 {
		t.Errorf("with an equal ROUTER_SERVE: %q", c.Warnings)
	}
	var sites strings.Builder
	for port := range 30 {
		fmt.Fprintf(&sites, `"a:%d": {"Handlers": {"/": {"Proxy": "3000"}}},`, port+1)
	}
	ports := strings.ReplaceAll(strings.ReplaceAll(sites.String(), `"a:`, `"`), `{"Handlers": {"/": {"Proxy": "3000"}}}`, `{"HTTP": true}`)
	all := file(`{"TCP": {` + strings.TrimSuffix(ports, ",") + `}, "Web": {` + strings.TrimSuffix(sites.String(), ",") + `}}`)
	if c := load(t, nil, "TS_SERVE_CONFIG="+all); len(c.Warnings) != maxServeProblems+1 || c.Warnings[maxServeProblems] != "TS_SERVE_CONFIG: 10 more Web entries have a literal name" {
		t.Errorf("%d warnings: %q", len(c.Warnings), c.Warnings)
	}

	for _, tt := range []struct{ env, want string }{
		{"TS_DEST_IP=db", `TS_DEST_IP: "db" is not an address: write one such as 10.0.3.4`},
		{"TS_DEST_IP=169.254.170.2", `TS_DEST_IP: "*=169.254.170.2" leads to an address that clients must not reach (link-local): use localhost, or an address in the VPC`},
		{"TS_EXPERIMENTAL_DEST_DNS_NAME=a_b", `TS_EXPERIMENTAL_DEST_DNS_NAME: "a_b" is not a name: write one such as db.internal`},
		{"TS_SERVE_CONFIG=/none/serve.json", `TS_SERVE_CONFIG: reading the file "/none/serve.json": no such file or directory`},
		{"TS_SERVE_CONFIG=" + file("tcp: 1"), "TS_SERVE_CONFIG: the file is not the JSON of a serve configuration: write it as `tailscale serve status --json` prints it"},
		{"TS_SERVE_CONFIG=" + file("{}"), `TS_SERVE_CONFIG: the file has no TCP entry: add one such as {"TCP": {"443": {"TCPForward": "localhost:8443"}}}, or remove this`},
		{"TS_SERVE_CONFIG=" + file(`{"TCP": {"1": {"TCPForward": "localhost:9002"}}}`), `TS_SERVE_CONFIG: "1=localhost:9002" leads to the router's own listener (ROUTER_LISTEN): use ROUTER_TAILNET_STATUS=on for the status, or another port`},
		{"TS_SERVE_CONFIG=" + file(`{"TCP": {"443": {"HTTPS": true}, "80": {"HTTP": true}, "1": {"TCPForward": "a:1", "TerminateTLS": "${TS_CERT_DOMAIN}"},
			"2": {"TCPForward": "a:1", "ProxyProtocol": 2}, "3": {}, "4": {"TCPForward": "unix:/run/a"}, "5": {"TCPForward": "a"}, "6": {"TCPForward": "a:1,7=b:1"}, "x": {},
			"7": {"HTTPS": true, "HTTP": true}, "8": {"HTTP": true, "TCPForward": "a:1"}},
			"Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {}}}, "AllowFunnel": {"${TS_CERT_DOMAIN}:443": true}, "Services": {"svc:a": {}}, "Foreground": {"1": {}}}`),
			`TS_SERVE_CONFIG: the Web entry "${TS_CERT_DOMAIN}:443": no handler for the path "/": add "Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}
TS_SERVE_CONFIG: TCP "2": ProxyProtocol is not supported: remove it
TS_SERVE_CONFIG: TCP "3": no TCPForward: write the address of a program, such as localhost:8080
TS_SERVE_CONFIG: TCP "4": "unix:/run/a" is a Unix socket: make the program listen on a TCP port, such as localhost:8080
TS_SERVE_CONFIG: TCP "5": "a" is not host:port: write one such as :9002 or 127.0.0.1:9002
TS_SERVE_CONFIG: TCP "6": "a:1,7=b:1" is not host:port: write one such as localhost:8080
TS_SERVE_CONFIG: TCP "7": HTTPS and HTTP at one port: keep one
TS_SERVE_CONFIG: TCP "8": HTTPS or HTTP together with TCPForward or TerminateTLS: keep one
TS_SERVE_CONFIG: TCP "80": no Web entry for the port: add "Web": {"${TS_CERT_DOMAIN}:80": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}}
TS_SERVE_CONFIG: TCP "x": not a port: use 1 to 65535
TS_SERVE_CONFIG: Services "svc:a" is not supported: remove it: the router serves ports of its own name only
TS_SERVE_CONFIG: Foreground "1" is not supported: move its entries to the top level
TS_SERVE_CONFIG: AllowFunnel "${TS_CERT_DOMAIN}:443" is not supported: remove it: the router is not reachable from the Internet; run the official image for Funnel`},
		{"TS_SERVE_CONFIG=" + file(`{"TCP": {"443": {"HTTPS": true}, "1": {"HTTPS": true}},
			"Web": {"a:443": {"Handlers": {"/": {"Path": "/srv", "Text": "x", "Redirect": "http://a", "AcceptAppCaps": ["a/b"]}, "/api": {"Proxy": "3000"}}},
			"b:443": {"Handlers": {"/": {"Proxy": "3000"}}}, "c:443": {"Handlers": {"/": {"Proxy": "3001"}}},
			"a:2": {}, "100.64.0.1:443": {}, "a b:443": {}, "${HOST}:443": {}, "a": {}, "a:1": null}}`),
			`TS_SERVE_CONFIG: the Web entry "${HOST}:443": not a name and a port: write ${TS_CERT_DOMAIN}:443
TS_SERVE_CONFIG: the Web entry "100.64.0.1:443": not a name and a port: write ${TS_CERT_DOMAIN}:443
TS_SERVE_CONFIG: the Web entry "a": not a name and a port: write ${TS_CERT_DOMAIN}:443
TS_SERVE_CONFIG: the Web entry "a b:443": not a name and a port: write ${TS_CERT_DOMAIN}:443
TS_SERVE_CONFIG: the Web entry "a:1": no handler for the path "/": add "Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}
TS_SERVE_CONFIG: the Web entry "a:2": no TCP entry for the port: add "TCP": {"2": {"HTTPS": true}}
TS_SERVE_CONFIG: the Web entry "a:443": Path is not supported: write the address of a program that serves the files as Proxy, such as http://127.0.0.1:3000
TS_SERVE_CONFIG: the Web entry "a:443": Text is not supported: write the address of a program as Proxy, such as http://127.0.0.1:3000
TS_SERVE_CONFIG: the Web entry "a:443": Redirect is not supported: let a program answer with it, and write its address as Proxy
TS_SERVE_CONFIG: the Web entry "a:443": AcceptAppCaps is not supported: remove it: requests have the user, and not the capabilities of grants
TS_SERVE_CONFIG: the Web entry "a:443": the path "/api" is not supported: keep "/" only, and let a program such as nginx divide the paths
TS_SERVE_CONFIG: the Web entry "c:443": another entry has the same port and another target: keep one, as the router has one name`},
	} {
		if got := problemsOf(nil, []string{tt.env}); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.env, got, tt.want)
		}
	}

	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, `"%d": {"HTTPS": true},`, i+1)
	}
	_, _, err := parseServeConfig(`{"TCP": {` + strings.TrimSuffix(many.String(), ",") + `}}`)
	if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) != maxServeProblems+1 || lines[maxServeProblems] != "80 more entries are refused" {
		t.Errorf("%d lines: %v", len(lines), err)
	}
}

// TestProxyOfHandler: the forms of a handler's Proxy that mean plain HTTP to a program, and what is said about others.
func TestProxyOfHandler(t *testing.T) {
	for proxy, want := range map[string]string{
		"3000": "127.0.0.1:3000", "localhost:3000": "localhost:3000", "http://127.0.0.1:3000": "127.0.0.1:3000", "http://127.0.0.1:3000/": "127.0.0.1:3000",
		"http://app.internal": "app.internal:80", "http://[fd12::4]": "[fd12::4]:80", "[fd12::4]:3000": "[fd12::4]:3000", "10.0.3.4:80": "10.0.3.4:80",
	} {
		if got, err := parseProxy(proxy); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", proxy, got, err, want)
		}
	}
	const write = "write one such as http://127.0.0.1:3000"
	for proxy, want := range map[string]string{
		"":                             `no Proxy for the path "/": ` + write,
		"unix:/run/app":                `the Proxy "unix:/run/app" is a Unix socket: make the program listen on a TCP port, and ` + write,
		"tcp://a:1":                    `the Proxy "tcp://a:1" is not an address of HTTP: ` + write,
		"http://a:1/x":                 `the Proxy "http://a:1/x" has a path: leave it out, and serve the program at /`,
		"https://a:1":                  `the Proxy "https://a:1" is not supported: make the program listen without TLS too, and write its address such as http://127.0.0.1:3000, or forward the port (TCPForward) to end TLS at the program`,
		"https+insecure://localhost:1": `the Proxy "https+insecure://localhost:1" is not supported: make the program listen without TLS too, and write its address such as http://127.0.0.1:3000, or forward the port (TCPForward) to end TLS at the program`,
	} {
		if got, err := parseProxy(proxy); err == nil || err.Error() != want {
			t.Errorf("%q: got %q, %v, want %s", proxy, got, err, want)
		}
	}
	for _, proxy := range []string{"0", "65536", "localhost", "http://", "http://:80", "http://a:0", "http://u@a:1", "http://a:1?x", "http://a:1,b:2", "a:1=b:2", "-1", "http://fd12::4"} {
		if got, err := parseProxy(proxy); err == nil || !strings.HasSuffix(err.Error(), "is not http://host:port: "+write) {
			t.Errorf("%q: got %q, %v", proxy, got, err)
		}
	}
}

// FuzzServeConfig: each accepted port can be written as an element of ROUTER_SERVE.
func FuzzServeConfig(f *testing.F) {
	f.Add(`{"TCP": {"443": {"TCPForward": "localhost:8443"}}}`)
	f.Add(`{"TCP": {"1": {"TCPForward": "[::1]:1"}}, "Web": null}`)
	f.Add(`{"TCP": {"443": {"TCPForward": "localhost:8080", "TerminateTLS": "a"}}}`)
	f.Add(`{"TCP": {"443": {"HTTPS": true}}, "Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}}, "AllowFunnel": {"${TS_CERT_DOMAIN}:443": false}}`)
	f.Add(`{"TCP": {"80": {"HTTP": true}, "81": {"HTTP": true}}, "Web": {"a:80": {"Handlers": {"/": {"Proxy": "3000"}}}, "a:81": {"Handlers": {"/": {"Proxy": "http://[::1]/"}}}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		list, _, err := parseServeConfig(text)
		if err != nil {
			return
		}
		for _, s := range list {
			if got, err := parseServe(s.String()); err != nil || len(got) != 1 || got[0] != s || s.Port == 0 {
				t.Errorf("%v from %q: %v, %v", s, text, got, err)
			}
		}
	})
}

// TestProxiesOfTheOfficialImage: without a host, the official image's variables mean all addresses, as there.
func TestProxiesOfTheOfficialImage(t *testing.T) {
	c := load(t, nil, "TS_SOCKS5_SERVER=:1055", "TS_OUTBOUND_HTTP_PROXY_LISTEN=localhost:1056")
	if c.SOCKS5Listen != ":1055" || c.HTTPProxyListen != "localhost:1056" {
		t.Errorf("got %q and %q", c.SOCKS5Listen, c.HTTPProxyListen)
	}
	if c := load(t, nil, "ROUTER_SOCKS5_LISTEN=:1055", "TS_OUTBOUND_HTTP_PROXY_LISTEN=off"); c.SOCKS5Listen != "127.0.0.1:1055" || c.HTTPProxyListen != "" {
		t.Errorf("got %q and %q", c.SOCKS5Listen, c.HTTPProxyListen)
	}
}
