package forward

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a [Forwarder]. The zero value of a field means the default that its
// comment gives.
type Config struct {
	// MTU of the tailnet. Default: 1280, Tailscale's.
	MTU int
	// Resolve returns the address to dial for a target; the network is "tcp" or "udp".
	// Default: the target.
	Resolve func(network string, target netip.AddrPort) (netip.AddrPort, error)
	// Deny reports whether a target (for 4via6, the IPv4 address) must never be reached. It
	// is called for every packet: it must not block or allocate. Default: no target is
	// denied.
	Deny func(target netip.AddrPort) bool
	// DenyDial is Deny for the address that Resolve returned. Default: Deny.
	DenyDial func(target netip.AddrPort) bool
	// Allow reports whether the tailnet's current access rules let a client open a flow of
	// an IP protocol to dst, which may be a 4via6 address. It must not block. Default:
	// every flow is allowed.
	Allow func(protocol uint8, client netip.Addr, dst netip.AddrPort) bool
	// Served returns the address to dial for a target that is a served port of the node's own
	// addresses, for TCP or UDP; the zero address while it is unknown. ok is false for other targets.
	// Such a flow is subject to Allow, but to none of Resolve, Deny and DenyDial. It must not block.
	// Default: no port is served.
	Served func(protocol Protocol, target netip.AddrPort) (to netip.AddrPort, ok bool)
	// Front returns the address of a front, which is dialed in place of the address that Served returned for a target; the
	// zero address for none. All rules apply to the address that Served returned, and Preface has to tell it to the front.
	// Front must not block. Default: none.
	Front func(protocol Protocol, target netip.AddrPort) netip.AddrPort
	// Admit decides about a flow that Allow permits, once, when it is opened; for each echo
	// request. target is the address behind the router: for 4via6, the IPv4 address. It must
	// not block. Default: every flow is admitted, without a rule.
	Admit func(protocol uint8, client, target netip.AddrPort) Admission
	// StillAdmits reports whether Admit would admit an open flow now. It must not block.
	// Default: open flows stay admitted.
	StillAdmits func(protocol uint8, client netip.Addr, target netip.AddrPort) bool
	// Preface returns bytes that a TCP target gets before those of the client, at most 2 KiB; nil for
	// none. front reports that the flow has dialed a front, which would take the client's bytes for the preface if there were
	// none: such a flow fails. A worker calls Preface; it must not wait for the data path. Default: none.
	Preface func(client, dst, target netip.AddrPort, front bool) []byte
	// Rejection returns a packet that reports to a client's node why its flow is refused, or
	// nil. It is sent besides the ICMP error or the reset, which reach the client's program. It
	// must not block. Default: no such packet is sent.
	Rejection func(why Refusal, protocol uint8, client, dst netip.AddrPort) []byte
	// DialTimeout bounds a TCP dial. Clients retransmit their SYN several times in that
	// time. Default: 10 s.
	DialTimeout time.Duration
	// MaxFlows and MaxFlowsPerPeer bound the flows that are open at once. Default: as
	// [Forwarder.RecomputeLimits] derives them from the process's own limits.
	MaxFlows, MaxFlowsPerPeer int
	// Peer maps a client's address to one address of its node, so that all addresses of
	// a node share its limit. It is called at most once for a flow, during packet
	// delivery: it must not wait for a delivery. Default: each address is a peer.
	Peer func(client netip.Addr) netip.Addr
	// KeepAlive returns the silence after which the client of a TCP flow to a port is
	// probed. It must not block. Default: 2 h.
	KeepAlive func(port uint16) time.Duration
	// TargetKeepAlive is the same for the targets. Default: 60 s.
	TargetKeepAlive time.Duration
	// ReservedPorts are UDP ports that no flow uses as its source port: those of the
	// process's own listeners. Default: none.
	ReservedPorts []uint16
	// ReservedFiles is the number of descriptors that are not for flows, besides [ReservedFiles].
	ReservedFiles int
	// Congestion is the congestion control towards clients. Default: BBR.
	Congestion Congestion
	// PeerRouters may take packets that belong to no flow here. Default: none.
	PeerRouters PeerRouters
	// Finished is called for each flow that ended. It must not block. Default: none.
	Finished func(Flow)
	// Registerer registers the metrics. Default: they are not registered.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Congestion is a congestion control of package tcp.
type Congestion int

// The congestion controls.
const (
	BBR Congestion = iota
	CUBIC
)

// Admission is the outcome of [Config.Admit].
type Admission struct {
	Refused bool
	Rule    string // why, for the log; it becomes [Flow.Rule]
}

// Refusal is a reason to refuse a flow that the tailnet's access rules allow.
type Refusal int

// The refusals.
const (
	RefusedByDenyList Refusal = iota
	RefusedByAdmit
)

// setDefaults replaces zero values by the defaults. It returns an error if a value cannot work.
func (cfg *Config) setDefaults() error {
	if cfg.Logger == nil {
		return errors.New("no Logger is set")
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1280
	}
	if cfg.MTU > ownPacketSize {
		return fmt.Errorf("MTU %d is more than %d", cfg.MTU, ownPacketSize)
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(_ string, target netip.AddrPort) (netip.AddrPort, error) { return target, nil }
	}
	if cfg.Deny == nil {
		cfg.Deny = func(netip.AddrPort) bool { return false }
	}
	if cfg.DenyDial == nil {
		cfg.DenyDial = cfg.Deny
	}
	if cfg.Allow == nil {
		cfg.Allow = func(uint8, netip.Addr, netip.AddrPort) bool { return true }
	}
	if cfg.Served == nil {
		cfg.Served = func(Protocol, netip.AddrPort) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
	}
	if cfg.Front == nil {
		cfg.Front = func(Protocol, netip.AddrPort) netip.AddrPort { return netip.AddrPort{} }
	}
	if cfg.Admit == nil {
		cfg.Admit = func(uint8, netip.AddrPort, netip.AddrPort) Admission { return Admission{} }
	}
	if cfg.StillAdmits == nil {
		cfg.StillAdmits = func(uint8, netip.Addr, netip.AddrPort) bool { return true }
	}
	if cfg.Preface == nil {
		cfg.Preface = func(_, _, _ netip.AddrPort, _ bool) []byte { return nil }
	}
	if cfg.Peer == nil {
		cfg.Peer = func(client netip.Addr) netip.Addr { return client }
	}
	if cfg.PeerRouters == nil {
		cfg.PeerRouters = noPeerRouters{}
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.KeepAlive == nil {
		cfg.KeepAlive = func(uint16) time.Duration { return clientKeepAlive }
	}
	if cfg.TargetKeepAlive == 0 {
		cfg.TargetKeepAlive = targetKeepAlive
	}
	return nil
}
