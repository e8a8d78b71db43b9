package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/proxyproto"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/secret"
)

// urlPassword matches the credentials in a URL.
var urlPassword = regexp.MustCompile(`(?s)//.*@`)

// quote returns a value for an error message, without credentials.
func quote(s string) string {
	return strconv.Quote(secret.Scrub(urlPassword.ReplaceAllString(s, "//<redacted>@")))
}

// choice reads one of a closed set of words.
func choice[T any](s string, words []string, values []T) (T, error) {
	if i := slices.Index(words, s); i >= 0 {
		return values[i], nil
	}
	var zero T
	return zero, fmt.Errorf("%s is not valid: use %s", quote(s), problem.Choice(words))
}

func parseMode(s string) (Mode, error) {
	return choice(s, []string{"auto", "userspace", "kernel"}, []Mode{ModeAuto, ModeUserspace, ModeKernel})
}

func parseCongestion(s string) (Congestion, error) {
	return choice(s, []string{"bbr", "cubic"}, []Congestion{CongestionBBR, CongestionCUBIC})
}

func parseAccess(s string) (Access, error) {
	return choice(s, []string{"off", "report", "grants"}, []Access{AccessOff, AccessReport, AccessGrants})
}

// maxProxyTargets bounds the list: each new connection is compared with all of it.
const maxProxyTargets = 100

func parseProxyProtocol(s string) ([]proxyproto.Target, error) {
	list, err := routes.ParseList(s, "CIDR:PORT such as 10.0.3.0/24:443", proxyproto.ParseTarget)
	if err == nil && len(list) > maxProxyTargets {
		err = fmt.Errorf("the list has %d elements: use %d at most", len(list), maxProxyTargets)
	}
	return list, err
}

func parseSwitch(s string) (bool, error) {
	return choice(s, []string{"off", "on"}, []bool{false, true})
}

func parseLogLevel(s string) (slog.Level, error) {
	return choice(s, []string{"debug", "info", "warn", "error"}, []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError})
}

func parseLogFormat(s string) (string, error) {
	words := []string{"json", "text"}
	return choice(s, words, words)
}

// parseBool accepts the same values as the official image and the flags of `tailscale up`.
func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%s is not valid: use true or false", quote(s))
	}
	return b, nil
}

// duration returns a parser of durations from lowest to highest.
func duration(lowest, highest time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			example := "30s or 5m"
			if _, err := strconv.ParseUint(s, 10, 16); err == nil {
				example = s + "s"
			}
			return 0, fmt.Errorf("%s is not a duration: write one such as %s", quote(s), example)
		}
		if d < lowest || d > highest {
			return 0, fmt.Errorf("%s is out of range: use %s to %s", quote(s), short(lowest), short(highest))
		}
		return d, nil
	}
}

var keepAliveTime = duration(10*time.Second, defaultKeepAlive)

// defaultKeepAlive is RFC 9293's: section 3.8.4 asks for at least two hours by default.
const defaultKeepAlive = 2 * time.Hour

// parseKeepAlive reads a duration for all ports and others for single ports, in any order.
func parseKeepAlive(s string) (KeepAlive, error) {
	k := KeepAlive{Default: defaultKeepAlive}
	general := false
	var errs []error
	for i, element := range strings.Split(s, ",") {
		element = strings.TrimSpace(element)
		port, value, single := strings.Cut(element, "=")
		if !single {
			value = element
		}
		if element == "" {
			errs = append(errs, fmt.Errorf("element %d is empty: remove the extra comma", i+1))
			continue
		}
		d, err := keepAliveTime(strings.TrimSpace(value))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !single {
			if general {
				errs = append(errs, fmt.Errorf("%s is a second duration without a port: keep one of them", quote(element)))
			}
			k.Default, general = d, true
			continue
		}
		number, err := parsePort(strings.TrimSpace(port))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s has a malformed port: write port=duration, such as 5432=10m", quote(element)))
			continue
		}
		if _, twice := k.Ports[number]; twice {
			errs = append(errs, fmt.Errorf("%s is a second duration for port %d: keep one of them", quote(element), number))
		}
		if k.Ports == nil {
			k.Ports = map[uint16]time.Duration{}
		}
		k.Ports[number] = d
	}
	return k, errors.Join(errs...)
}

// short returns a duration as people write it: 24h, not 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// integer returns a parser of whole numbers from lowest to highest.
func integer[T int | uint16 | uint32](lowest, highest T) func(string) (T, error) {
	return func(s string) (T, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < int64(lowest) || n > int64(highest) {
			return 0, fmt.Errorf("%s is not a number from %d to %d", quote(s), lowest, highest)
		}
		return T(n), nil
	}
}

func parseSite(s string) (*uint32, error) {
	site, err := integer[uint32](0, routes.MaxSite)(s)
	return &site, err
}

func parseRelayPort(s string) (uint16, error) {
	if s == "off" {
		return 0, nil
	}
	port, err := integer[uint16](1, 65535)(s)
	if err != nil {
		return 0, fmt.Errorf("%w: write a port such as 40000, or off", err)
	}
	return port, nil
}

// maxEndpoints bounds the endpoints of a peer relay: the relay offers all of them to each node.
const maxEndpoints = 8

func parseEndpoints(s string) ([]netip.AddrPort, error) {
	list, err := routes.ParseList(s, "IP:PORT such as 203.0.113.7:40000", func(element string) (netip.AddrPort, error) {
		e, err := netip.ParseAddrPort(element)
		if err != nil || e.Port() == 0 || e.Addr().IsUnspecified() || e.Addr().IsLoopback() || e.Addr().IsMulticast() || e.Addr().Zone() != "" || e.Addr().Is4In6() {
			return e, fmt.Errorf("%s is not the address and port of an endpoint: write one such as 203.0.113.7:40000 or [2001:db8::7]:40000", quote(element))
		}
		return e, nil
	})
	if err == nil && len(list) > maxEndpoints {
		return nil, fmt.Errorf("%d endpoints are too many: write at most %d", len(list), maxEndpoints)
	}
	return list, err
}

// hostPort reads an address with a fixed port.
func hostPort(s string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	if err != nil {
		example := ":9002 or 127.0.0.1:9002"
		if _, err := parsePort(s); err == nil {
			example = ":" + s
		} else if a, err := netip.ParseAddr(s); err == nil {
			example = net.JoinHostPort(a.String(), "9002")
		}
		return "", "", fmt.Errorf("%s is not host:port: write one such as %s", quote(s), example)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && !validDomain(host) {
		return "", "", fmt.Errorf("%s has a malformed host: write an address or a name, as in 127.0.0.1:9002", quote(s))
	}
	if _, err := parsePort(port); err != nil {
		return "", "", fmt.Errorf("%s has a malformed port: use 1 to 65535 after the colon", quote(s))
	}
	return host, port, nil
}

var parsePort = integer[uint16](1, 65535)

func parseListen(s string) (string, error) {
	host, port, err := hostPort(s)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// parseLocalListen reads the address of a listener that is off the network unless the operator names an
// address: profiles hold memory, and a proxy gives access to the tailnet.
func parseLocalListen(s string) (string, error) {
	if s == "off" {
		return "", nil
	}
	host, port, err := hostPort(s)
	if err != nil {
		return "", err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// parseEgress reads ports that are forwarded into the tailnet: PORT=HOST:PORT, where the first port may have an address
// before it and /udp after it. An element without a listener, written *=HOST, stands for all other ports.
func parseEgress(s string) ([]EgressPort, error) {
	return routes.ParseList(s, "5432=db:5432", func(element string) (EgressPort, error) {
		from, to, ok := strings.Cut(element, "=")
		from, to = strings.TrimSpace(from), strings.TrimSpace(to)
		if a, err := netip.ParseAddr(to); from == "*" && (err == nil && a.Zone() == "" || validDomain(to)) {
			return EgressPort{Target: to}, nil
		}
		at, protocol, named := strings.Cut(from, "/")
		if !ok || named && protocol != "udp" && protocol != "tcp" {
			return EgressPort{}, fmt.Errorf("%s is not PORT=HOST:PORT or PORT/udp=HOST:PORT: write one such as 5432=db:5432", quote(element))
		}
		if _, err := parsePort(at); err == nil {
			at = ":" + at
		}
		listen, err := parseLocalListen(at)
		if err != nil || listen == "" {
			return EgressPort{}, fmt.Errorf("%s has a malformed port to listen on: write a port, or an address and a port, as in 0.0.0.0:5432=db:5432", quote(element))
		}
		host, port, err := hostPort(to)
		if err != nil || host == "" {
			return EgressPort{}, fmt.Errorf("%s has a malformed target: write HOST:PORT after the equals sign, as in 5432=db:5432", quote(element))
		}
		return EgressPort{Listen: listen, UDP: protocol == "udp", Target: net.JoinHostPort(host, port)}, nil
	})
}

func parseProbes(s string) ([]string, error) {
	return routes.ParseList(s, "HOST:PORT such as 10.0.3.4:5432", func(element string) (string, error) {
		host, port, err := hostPort(element)
		if err == nil && host == "" {
			err = fmt.Errorf("%s has no host: write host:port, such as 10.0.3.4:5432", quote(element))
		}
		return net.JoinHostPort(host, port), err
	})
}

func parseServe(s string) ([]Serve, error) {
	const example = "443=localhost:8080"
	return routes.ParseList(s, "PORT=HOST:PORT such as "+example, func(element string) (Serve, error) {
		from, target, ok := strings.Cut(element, "=")
		if _, err := netip.ParseAddr(target); from == "*" && (err == nil || validDomain(target)) {
			return Serve{Target: target}, nil
		}
		kind := ServeTCP
		for k, suffix := range serveSuffixes {
			if before, found := strings.CutSuffix(from, suffix); found {
				from, kind = before, k
				break
			}
		}
		port, err := parsePort(from)
		if !ok || err != nil {
			return Serve{}, fmt.Errorf("%s is not PORT=HOST:PORT, or with /tls, /http or /https behind the first port: write one such as %s", quote(element), example)
		}
		host, to, err := hostPort(target)
		if err == nil && host == "" {
			err = fmt.Errorf("%s has no host: write one such as %s", quote(element), example)
		}
		if err != nil {
			return Serve{}, err
		}
		number, _ := parsePort(to)
		return Serve{port, net.JoinHostPort(host, strconv.Itoa(int(number))), kind}, nil
	})
}

var tag = regexp.MustCompile(`^tag:[a-zA-Z][a-zA-Z0-9-]*$`)

func parseTags(s string) ([]string, error) {
	return routes.ParseList(s, "tag:subnet-router", func(element string) (string, error) {
		if !tag.MatchString(element) {
			return "", fmt.Errorf("%s is not a tag: write tag: and a letter, then letters, digits and dashes, such as tag:subnet-router", quote(element))
		}
		return element, nil
	})
}

// A label of DNS (RFC 1123); a name is labels with dots between.
var label = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

func validDomain(s string) bool {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	return len(s) <= 254 && !slices.ContainsFunc(labels, func(l string) bool { return !label.MatchString(l) })
}

func parseHostname(s string) (string, error) {
	if !label.MatchString(s) {
		return "", fmt.Errorf("%s is not a host name: write at most 63 letters, digits and dashes, without a dash at either end", quote(s))
	}
	return s, nil
}

func parseURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", fmt.Errorf("%s is not an http or https URL: write one such as https://headscale.example.com", quote(s))
	case u.User != nil:
		return "", fmt.Errorf("%s contains a user name or password: remove it", quote(s))
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("%s has a query or fragment: remove it", quote(s))
	}
	return strings.TrimRight(s, "/"), nil
}

func parseAbsolute(s string) (string, error) {
	if !filepath.IsAbs(s) {
		return "", fmt.Errorf("%s is not an absolute path: write one that starts with /", quote(s))
	}
	return filepath.Clean(s), nil
}

// sun_path has 108 bytes on Linux and 104 on macOS, the last one a NUL.
const maxSocketPath = 103

func parseSocket(s string) (string, error) {
	path, err := parseAbsolute(s)
	if err == nil && len(path) > maxSocketPath {
		return "", fmt.Errorf("%s is too long for a socket: write at most %d bytes", quote(s), maxSocketPath)
	}
	return path, err
}

// parseAuthKey detects one mistake; [checkAuthKey], which has the control server, detects the
// others. Neither shows any part of the value.
func parseAuthKey(s string) (secret.String, error) {
	if strings.HasPrefix(s, "arn:") {
		return "", errors.New("this is an ARN, not a key: write it to ROUTER_AUTH_SECRET")
	}
	return secret.String(s), nil
}

func parseWord(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%s contains spaces: remove them", quote(s))
	}
	return s, nil
}

func parseText(s string) (string, error) { return s, nil }
