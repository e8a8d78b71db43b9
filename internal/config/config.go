package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/zones"
	"subnetrouter/internal/proxyproto"
)

// Config is the whole configuration of the router, validated. [Load] makes it.
type Config struct {
	Credential credential.Settings
	Routes     routesource.Settings
	Zones      zones.Settings
	Refresh    time.Duration // between two look-ups of routes and credential

	Hostname   string // "" = from the task's family, or see HostsName
	HostsName  bool   // without Hostname the node has the host's name, as with the official image
	ControlURL string // "" = Tailscale's; no trailing slash

	Identity identity.Settings
	Mode     Mode
	UDPPort  uint16 // WireGuard; 0 = any free one
	Socket   string // LocalAPI, an absolute path

	Listen       string // ops HTTP, host:port; see LocalURL
	DebugListen  string // pprof, host:port with a host; "" = off
	DrainTimeout time.Duration
	BootTimeout  time.Duration
	Probes       []string // host:port behind the router

	SOCKS5Listen    string // proxies into the tailnet, host:port, without a host for all addresses; "" = off
	HTTPProxyListen string
	Egress          []EgressPort
	EgressAll       string // host that all other ports are forwarded to, in kernel mode; "" = none

	DNS            bool // answer the queries for the VPC's resolver; sets Routes.Resolver too
	DNSRebindGuard bool

	Serve []Serve // ports of the node's own addresses

	ExitNode, AppConnector bool             // roles besides that of a subnet router
	PeerRelay              uint16           // another role, at a UDP port; 0 = off
	PeerRelayEndpoints     []netip.AddrPort // in addition to those that the relay finds

	Access        Access
	AccessCut     bool
	ProxyProtocol []proxyproto.Target // that get a PROXY header

	FlowLog         bool
	EMF             bool
	StatusPage      bool
	TailnetStatus   bool
	DNSRegister     bool // see Zones
	MaxFlows        int  // 0 = derived from the memory limit
	MaxFlowsPerPeer int  // 0 = derived from MaxFlows
	KeepAlive       KeepAlive
	TargetKeepAlive time.Duration
	Congestion      Congestion

	LogLevel  slog.Level
	LogFormat string // "json" or "text"

	// Settings of `tailscale up` without a variable of their own, from TS_EXTRA_ARGS.
	AcceptRoutes      bool
	SNAT              bool // true unless --snat-subnet-routes=false
	StatefulFiltering bool

	MetadataURI string // task metadata v4; "" = not on ECS

	// serveNames are the entries of TS_SERVE_CONFIG's Web that have a literal name, until check warns of them.
	serveNames []string
	// authSecretKey is ROUTER_AUTH_SECRET_KEY, until [Load] moves it to Credential.
	authSecretKey string

	// Warnings are for the log: settings that work but should be changed.
	Warnings []string
}

// EgressPort is a port of the router that is forwarded into the tailnet.
type EgressPort struct {
	Listen string // host:port with a host
	UDP    bool
	Target string // host:port
}

// OpensIntoTailnet reports whether programs may connect into the tailnet.
func (c Config) OpensIntoTailnet() bool {
	return c.SOCKS5Listen != "" || c.HTTPProxyListen != "" || len(c.Egress) > 0
}

// EgressListeners returns the addresses of the listeners for programs that connect into the tailnet.
func (c Config) EgressListeners() []string {
	list := []string{c.SOCKS5Listen, c.HTTPProxyListen}
	for _, p := range c.Egress {
		list = append(list, p.Listen)
	}
	return list
}

// KeepAlive is the silence after which the client of a TCP connection is probed.
type KeepAlive struct {
	Default time.Duration
	Ports   map[uint16]time.Duration // for connections to these ports; nil for none
}

// For returns the silence for connections to a port.
func (k KeepAlive) For(port uint16) time.Duration {
	if d, ok := k.Ports[port]; ok {
		return d
	}
	return k.Default
}

// Serve is a TCP port of the node's own tailnet addresses, and the host:port that it leads to. If Port is
// 0, it is all ports that have no other use, of TCP and UDP, and Target is a host.
type Serve struct {
	Port   uint16
	Target string
	Kind   ServeKind
}

// ServeKind is what the router does with the connections to a served port.
type ServeKind int

const (
	ServeTCP   ServeKind = iota // pass bytes on
	ServeTLS                    // terminate TLS with the node's certificate
	ServeHTTP                   // answer HTTP requests as a reverse proxy
	ServeHTTPS                  // both
)

// serveSuffixes are the kinds as they follow a port.
var serveSuffixes = map[ServeKind]string{ServeTLS: "/tls", ServeHTTP: "/http", ServeHTTPS: "/https"}

// TLS reports whether the router terminates TLS.
func (k ServeKind) TLS() bool { return k == ServeTLS || k == ServeHTTPS }

// HTTP reports whether the router answers HTTP requests.
func (k ServeKind) HTTP() bool { return k == ServeHTTP || k == ServeHTTPS }

// String returns the element of ROUTER_SERVE.
func (s Serve) String() string {
	if s.Port == 0 {
		return "*=" + s.Target
	}
	return fmt.Sprintf("%d%s=%s", s.Port, serveSuffixes[s.Kind], s.Target)
}

// TerminatesTLS reports whether a served port has TLS.
func (c *Config) TerminatesTLS() bool {
	return slices.ContainsFunc(c.Serve, func(s Serve) bool { return s.Kind.TLS() })
}

// AnswersHTTP reports whether a served port has HTTP.
func (c *Config) AnswersHTTP() bool {
	return slices.ContainsFunc(c.Serve, func(s Serve) bool { return s.Kind.HTTP() })
}

// Access selects whether grants decide which targets clients reach.
type Access int

const (
	AccessOff    Access = iota // the tailnet's ip rules alone
	AccessReport               // log the decisions
	AccessGrants               // enforce them
)

// Congestion is the congestion control towards clients.
type Congestion int

const (
	CongestionBBR Congestion = iota
	CongestionCUBIC
)

// Mode selects how traffic gets from the tailnet into the VPC.
type Mode int

const (
	ModeAuto      Mode = iota // userspace
	ModeUserspace             // in-process TCP/IP stack
	ModeKernel                // TUN device and netfilter
)

// String returns the mode as ROUTER_MODE spells it.
func (m Mode) String() string {
	switch m {
	case ModeUserspace:
		return "userspace"
	case ModeKernel:
		return "kernel"
	default:
		return "auto"
	}
}

// LocalURL returns the URL of path on this router's own HTTP listener.
func (c Config) LocalURL(path string) string { return LocalURL(c.Listen, path) }

// LocalURL returns the URL at which this machine reaches path on a listener:
// the loopback address if it listens on every address.
func LocalURL(listen, path string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil { // not from Load
		host, port = listen, ""
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		host = "127.0.0.1"
	}
	if len(path) == 0 || path[0] != '/' {
		path = "/" + path
	}
	return "http://" + net.JoinHostPort(host, port) + path
}
