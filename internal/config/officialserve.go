package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// servedByOfficial are the variables of the official image that become ROUTER_SERVE. Its own name has the elements.
var servedByOfficial = []struct {
	name, how string // how is the value of ROUTER_SERVE, for the documentation
	set       func(c *Config, name, value string) error
}{
	{"TS_DEST_IP", "`*=IP`, all ports", into(servedPorts, parseDestIP)},
	{"TS_EXPERIMENTAL_DEST_DNS_NAME", "`*=NAME`, all ports", into(servedPorts, parseDestName)},
	{"TS_SERVE_CONFIG", "the entries of the file, which must exist: `TCPForward` with `TerminateTLS`, and `HTTPS` or `HTTP` with a `Web` whose handler `/` has a `Proxy` to a program with plain HTTP; other handlers, `AllowFunnel` and `Services` are errors (exit code 2). The file is read once, and a literal name in `Web` is a warning: the node has one name", setServeFile},
}

// serveAliases returns the names of servedByOfficial.
func serveAliases() (names []string) {
	for _, v := range servedByOfficial {
		names = append(names, v.name)
	}
	return names
}

// setServe also reads the variables of servedByOfficial.
func setServe(c *Config, name, value string) error {
	set := into(servedPorts, parseServe)
	for _, v := range servedByOfficial {
		if v.name == name {
			set = v.set
		}
	}
	return set(c, name, value)
}

func servedPorts(c *Config) *[]Serve { return &c.Serve }

func parseDestIP(value string) ([]Serve, error) {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" {
		return nil, fmt.Errorf("%s is not an address: write one such as 10.0.3.4", quote(value))
	}
	return []Serve{{Target: a.String()}}, nil
}

func parseDestName(value string) ([]Serve, error) {
	if !validDomain(value) {
		return nil, fmt.Errorf("%s is not a name: write one such as db.internal", quote(value))
	}
	return []Serve{{Target: value}}, nil
}

// serveConfig is the part of `tailscale serve`'s configuration that is read or refused.
type serveConfig struct {
	TCP         map[string]tcpHandler
	Web         map[string]webSite // by host:port
	AllowFunnel map[string]bool
	Services    map[string]json.RawMessage
	Foreground  map[string]json.RawMessage
}

type tcpHandler struct {
	HTTPS, HTTP   bool
	TCPForward    string
	TerminateTLS  string
	ProxyProtocol int
}

type webSite struct {
	Handlers map[string]webHandler // by path
}

type webHandler struct {
	Path, Proxy, Text, Redirect string
	AcceptAppCaps               []json.RawMessage
}

func setServeFile(c *Config, _, path string) error {
	text, err := readFile(path)
	if err == nil {
		c.Serve, c.serveNames, err = parseServeConfig(text)
	}
	return err
}

// maxServeProblems bounds the errors about one file, and the warnings.
const maxServeProblems = 20

// certDomain is the node's name in a serve configuration.
const certDomain = "${TS_CERT_DOMAIN}"

// parseServeConfig returns the ports of a serve configuration, and the Web entries with a literal name. An entry that the router
// cannot serve in the same way is an error.
func parseServeConfig(text string) (list []Serve, named []string, err error) {
	var cfg serveConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return nil, nil, errors.New("the file is not the JSON of a serve configuration: write it as `tailscale serve status --json` prints it")
	}
	var errs []error
	sites := cfg.sites(&errs)
	for _, port := range slices.Sorted(maps.Keys(cfg.TCP)) {
		found, err := cfg.TCP[port].serve(port, sites[port])
		if err != nil {
			errs = append(errs, fmt.Errorf("TCP %s: %w", quote(port), err))
		}
		list = append(list, found...)
	}
	refuse := func(kind string, entries []string, advice string) {
		for _, entry := range entries {
			errs = append(errs, fmt.Errorf("%s %s is not supported: %s", kind, quote(entry), advice))
		}
	}
	refuse("Services", slices.Sorted(maps.Keys(cfg.Services)), "remove it: the router serves ports of its own name only")
	refuse("Foreground", slices.Sorted(maps.Keys(cfg.Foreground)), "move its entries to the top level")
	for _, entry := range slices.Sorted(maps.Keys(cfg.AllowFunnel)) {
		if cfg.AllowFunnel[entry] {
			refuse("AllowFunnel", []string{entry}, "remove it: the router is not reachable from the Internet; run the official image for Funnel")
		}
	}
	switch more := len(errs) - maxServeProblems; {
	case more > 0:
		errs = append(errs[:maxServeProblems], fmt.Errorf("%d more entries are refused", more))
	case len(errs)+len(list) == 0:
		return nil, nil, errors.New(`the file has no TCP entry: add one such as {"TCP": {"443": {"TCPForward": "localhost:8443"}}}, or remove this`)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	for _, entry := range slices.Sorted(maps.Keys(cfg.Web)) {
		if !strings.HasPrefix(entry, certDomain+":") {
			named = append(named, entry)
		}
	}
	return list, named, nil
}

// warnServeNames warns of names that may be another node's: tailscaled answers for its own only.
func warnServeNames(c *Config, name string, r *report) {
	for i, entry := range c.serveNames {
		if i == maxServeProblems {
			r.warn(name, fmt.Sprintf("%d more Web entries have a literal name", len(c.serveNames)-i))
			break
		}
		_, port, _ := net.SplitHostPort(entry) // sites has checked it
		r.warn(name, fmt.Sprintf("the Web entry %s is served under the router's own name, also if that is another: write %s:%s, or remove an entry for another node", quote(entry), certDomain, port))
	}
	c.serveNames = nil
}

// site is the Web entries of one port.
type site struct {
	listed bool   // there are some
	target string // host:port; "" if none is right
}

// sites returns the Web entries by port, and adds what is wrong with them to errs.
func (cfg *serveConfig) sites(errs *[]error) map[string]site {
	sites := map[string]site{}
	for _, entry := range slices.Sorted(maps.Keys(cfg.Web)) {
		host, port, err := net.SplitHostPort(entry)
		_, noAddress := netip.ParseAddr(host)
		found := sites[port]
		found.listed = true
		var problems []error
		switch tcp := cfg.TCP[port]; {
		case err != nil, host != certDomain && (noAddress == nil || !validDomain(host)):
			problems = []error{errors.New("not a name and a port: write ${TS_CERT_DOMAIN}:443")}
		case !tcp.HTTP && !tcp.HTTPS:
			problems = []error{fmt.Errorf(`no TCP entry for the port: add "TCP": {%q: {"HTTPS": true}}`, port)}
		default:
			var target string
			target, problems = cfg.Web[entry].target()
			switch {
			case len(problems) > 0:
			case found.target != "" && found.target != target:
				problems = []error{errors.New("another entry has the same port and another target: keep one, as the router has one name")}
			default:
				found.target = target
			}
		}
		for _, err := range problems {
			*errs = append(*errs, fmt.Errorf("the Web entry %s: %w", quote(entry), err))
		}
		sites[port] = found
	}
	return sites
}

// target returns the address to which all requests go, or what is wrong.
func (w webSite) target() (target string, problems []error) {
	for _, path := range slices.Sorted(maps.Keys(w.Handlers)) {
		refuse := func(what, advice string) {
			problems = append(problems, fmt.Errorf("%s is not supported: %s", what, advice))
		}
		h := w.Handlers[path]
		if path != "/" {
			refuse("the path "+quote(path), `keep "/" only, and let a program such as nginx divide the paths`)
			continue
		}
		if h.Path != "" {
			refuse("Path", "write the address of a program that serves the files as Proxy, such as http://127.0.0.1:3000")
		}
		if h.Text != "" {
			refuse("Text", "write the address of a program as Proxy, such as http://127.0.0.1:3000")
		}
		if h.Redirect != "" {
			refuse("Redirect", "let a program answer with it, and write its address as Proxy")
		}
		if len(h.AcceptAppCaps) > 0 {
			refuse("AcceptAppCaps", "remove it: requests have the user, and not the capabilities of grants")
		}
	}
	root, ok := w.Handlers["/"]
	if !ok {
		problems = append(problems, errors.New(`no handler for the path "/": add "Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}`))
	}
	if len(problems) > 0 {
		return "", problems
	}
	target, err := parseProxy(root.Proxy)
	if err != nil {
		return "", []error{err}
	}
	return target, nil
}

// parseProxy returns the host:port of a handler's Proxy: a URL, host:port or a port of this host.
func parseProxy(proxy string) (string, error) {
	write := "write one such as http://127.0.0.1:3000"
	if _, err := parsePort(proxy); err == nil {
		return net.JoinHostPort("127.0.0.1", proxy), nil
	}
	scheme, rest, ok := strings.Cut(proxy, "://")
	switch {
	case proxy == "":
		return "", errors.New("no Proxy for the path \"/\": " + write)
	case strings.HasPrefix(proxy, "unix:"):
		return "", fmt.Errorf("the Proxy %s is a Unix socket: make the program listen on a TCP port, and %s", quote(proxy), write)
	case !ok:
		rest = proxy
	case strings.HasPrefix(scheme, "https"):
		return "", fmt.Errorf("the Proxy %s is not supported: make the program listen without TLS too, and write its address such as http://127.0.0.1:3000, or forward the port (TCPForward) to end TLS at the program", quote(proxy))
	case scheme != "http":
		return "", fmt.Errorf("the Proxy %s is not an address of HTTP: %s", quote(proxy), write)
	}
	address, path, _ := strings.Cut(rest, "/")
	if path != "" {
		return "", fmt.Errorf("the Proxy %s has a path: leave it out, and serve the program at /", quote(proxy))
	}
	if bare := strings.TrimSuffix(address, "]"); ok && (bare != address || !strings.Contains(address, ":")) {
		address += ":80"
	}
	host, port, err := hostPort(address)
	if err != nil || host == "" || strings.ContainsAny(address, ",= ") {
		return "", fmt.Errorf("the Proxy %s is not http://host:port: %s", quote(proxy), write)
	}
	return net.JoinHostPort(host, port), nil
}

// serve returns the element of ROUTER_SERVE for a TCP port, of whose Web entries web is.
func (h tcpHandler) serve(port string, web site) ([]Serve, error) {
	switch number, err := strconv.ParseUint(port, 10, 16); {
	case err != nil || number == 0:
		return nil, errors.New("not a port: use 1 to 65535")
	case h.ProxyProtocol != 0:
		return nil, errors.New("ProxyProtocol is not supported: remove it")
	case h.HTTPS || h.HTTP:
		return h.serveHTTP(port, web)
	case h.TCPForward == "":
		return nil, errors.New("no TCPForward: write the address of a program, such as localhost:8080")
	case strings.HasPrefix(h.TCPForward, "unix:"):
		return nil, fmt.Errorf("%s is a Unix socket: make the program listen on a TCP port, such as localhost:8080", quote(h.TCPForward))
	case strings.ContainsAny(h.TCPForward, ", "):
		return nil, fmt.Errorf("%s is not host:port: write one such as localhost:8080", quote(h.TCPForward))
	}
	if h.TerminateTLS != "" { // the node has one name, and a certificate for it
		port += "/tls"
	}
	return parseServe(port + "=" + h.TCPForward)
}

// serveHTTP is serve for a port with HTTP.
func (h tcpHandler) serveHTTP(port string, web site) ([]Serve, error) {
	switch {
	case h.HTTPS && h.HTTP:
		return nil, errors.New("HTTPS and HTTP at one port: keep one")
	case h.TCPForward != "" || h.TerminateTLS != "":
		return nil, errors.New("HTTPS or HTTP together with TCPForward or TerminateTLS: keep one")
	case web.target == "" && web.listed: // which has its own error
		return nil, nil
	case web.target == "":
		return nil, fmt.Errorf(`no Web entry for the port: add "Web": {"${TS_CERT_DOMAIN}:%s": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}}`, port)
	case h.HTTPS:
		port += "/https"
	default:
		port += "/http"
	}
	return parseServe(port + "=" + web.target)
}
