package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// servedByOfficial are the variables of the official image that become ROUTER_SERVE. Its own name has the elements.
var servedByOfficial = []struct {
	name, how string // how is the value of ROUTER_SERVE, for the documentation
	parse     func(value string) ([]Serve, error)
}{
	{"TS_DEST_IP", "`*=IP`, all ports", parseDestIP},
	{"TS_EXPERIMENTAL_DEST_DNS_NAME", "`*=NAME`, all ports", parseDestName},
	{"TS_SERVE_CONFIG", "the `TCPForward` entries of the file, which must exist, with `TerminateTLS`; `HTTPS`, `HTTP`, `Web`, `AllowFunnel` and `Services` are errors (exit code 2)", parseServeFile},
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
	parse := parseServe
	for _, v := range servedByOfficial {
		if v.name == name {
			parse = v.parse
		}
	}
	list, err := parse(value)
	if err == nil {
		c.Serve = list
	}
	return err
}

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
	Web         map[string]json.RawMessage
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

func parseServeFile(path string) ([]Serve, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseServeConfig(text)
}

// maxServeProblems bounds the errors about one file.
const maxServeProblems = 20

// parseServeConfig returns the ports of a serve configuration. An entry that needs more than a TCP connection is an
// error, since its clients would get something else.
func parseServeConfig(text string) ([]Serve, error) {
	var cfg serveConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return nil, errors.New("the file is not the JSON of a serve configuration: write it as `tailscale serve status --json` prints it")
	}
	var list []Serve
	var errs []error
	for _, port := range slices.Sorted(maps.Keys(cfg.TCP)) {
		found, err := cfg.TCP[port].serve(port)
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
	refuse("Web", slices.Sorted(maps.Keys(cfg.Web)), "remove it, and forward the port to a program that serves HTTP")
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
		return nil, errors.New(`the file has no TCP entry: add one such as {"TCP": {"443": {"TCPForward": "localhost:8443"}}}, or remove this`)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, nil
}

// serve returns the element of ROUTER_SERVE for a TCP port.
func (h tcpHandler) serve(port string) ([]Serve, error) {
	switch number, err := strconv.ParseUint(port, 10, 16); {
	case err != nil || number == 0:
		return nil, errors.New("not a port: use 1 to 65535")
	case h.HTTPS:
		return nil, errors.New("HTTPS is not supported, since programs trust the headers with the user that it adds: write the address of the program " +
			`as TCPForward, such as localhost:8080, with "TerminateTLS": "${TS_CERT_DOMAIN}"`)
	case h.HTTP:
		return nil, errors.New("HTTP is not supported: write the address of a program that serves HTTP as TCPForward, such as localhost:8080")
	case h.ProxyProtocol != 0:
		return nil, errors.New("ProxyProtocol is not supported: remove it")
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
