// Package forward is the data path: it carries TCP, UDP and ICMP echo from tailnet peers to
// addresses behind the router. It depends on neither Tailscale nor AWS: IP packets from peers
// enter through [Forwarder.Deliver], packets to peers leave through [Forwarder.Receive], and
// the targets are reached through ordinary sockets.
//
// UDP and ICMP are handled packet by packet; only TCP has a stack, gVisor's. All flows share
// one event queue and a few workers: an idle flow has neither a goroutine nor a buffer.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/routes"

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
	// KeepAlive is the silence after which both sides of a TCP flow are probed.
	// Default: 60 s.
	KeepAlive time.Duration
	// ReservedPorts are UDP ports that no flow uses as its source port: those of the
	// process's own listeners. Default: none.
	ReservedPorts []uint16
	// PeerRouters may take packets that belong to no flow here. Default: none.
	PeerRouters PeerRouters
	// Finished is called for each flow that ended. It must not block. Default: none.
	Finished func(Flow)
	// Registerer registers the metrics. Default: they are not registered.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// PeerRouters relays packets to other routers that may have their flows.
type PeerRouters interface {
	// MayHaveFlow reports whether there is a router to relay to. It is called for every
	// packet that may need one; Relay is not called if it returns false.
	MayHaveFlow() bool
	// Relay passes a packet to a peer router and reports whether it did. The packet is
	// valid only during the call.
	Relay(packet []byte) bool
}

// Forwarder is the data path of one router. Create it with [New].
type Forwarder struct {
	cfg      Config
	mtu      int
	log      *slog.Logger
	metrics  *metrics
	drops    *drops
	logLines chan slog.Record
	buffers  sync.Pool // of *[]byte, bufferSize each
	memory   bufferBudget

	link       *link
	endpoint   *linkEndpoint
	sched      *scheduler
	poll       *poller
	polled     chan struct{} // closed when the poller has returned
	udp        *udpTable
	tcp        *tcpTable
	reassembly *packet.Reassembler
	pinger     *pinger
	fragmentID atomic.Uint32

	routes   *routeTable
	peersMu  sync.Mutex
	peers    map[netip.Addr]*peer // by each of their addresses that has flows
	reserved int
	limit    Limit
	closing  bool

	cancel    context.CancelFunc
	closeOnce sync.Once
	closed    struct{ tcp, udp int }
}

// bufferSize is enough for the largest datagram with its headers, for a run of datagrams, and
// for enough of a stream to be worth the system call.
const bufferSize = 64<<10 + 256

// New creates a Forwarder, and starts its workers.
func New(cfg Config) (*Forwarder, error) {
	if cfg.Logger == nil {
		return nil, errors.New("creating forwarder: Logger is needed")
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1280
	}
	if cfg.MTU > ownPacketSize {
		return nil, fmt.Errorf("creating forwarder: MTU %d is more than %d", cfg.MTU, ownPacketSize)
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
	if cfg.Peer == nil {
		cfg.Peer = func(client netip.Addr) netip.Addr { return client }
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = keepAliveIdle
	}
	routes := newRouteTable()
	dropped := newDrops()
	m, err := newMetrics(cfg.Registerer, routes, dropped)
	if err != nil {
		return nil, fmt.Errorf("registering forwarder metrics: %w", err)
	}
	f := &Forwarder{
		cfg: cfg, mtu: cfg.MTU, log: cfg.Logger, metrics: m, drops: dropped, routes: routes,
		peers: map[netip.Addr]*peer{}, link: newLink(dropped), logLines: make(chan slog.Record, maxQueuedLines),
		reassembly: packet.NewReassembler(packet.ReassemblerConfig{Node: cfg.Peer, Dropped: dropped.fragments}),
	}
	f.RecomputeLimits()
	f.buffers.New = func() any { b := make([]byte, bufferSize); return &b }
	f.endpoint = &linkEndpoint{link: f.link, mtu: uint32(cfg.MTU)}
	stack, err := newStack(f.endpoint)
	if err != nil {
		return nil, fmt.Errorf("creating TCP/IP stack: %w", err)
	}
	dropped.stack = f.endpoint.droppedByStack
	f.sched = newScheduler(workers())
	if f.poll, err = newPoller(f.sched); err != nil {
		return nil, fmt.Errorf("creating event queue: %w", err)
	}
	f.polled = make(chan struct{})
	go func() { defer close(f.polled); f.poll.run() }()
	f.udp = &udpTable{f: f, flows: map[flowKey]*udpFlow{}, ports: sourcePorts{
		reserved: cfg.ReservedPorts, flows: map[uint16]*udpFlow{},
	}}
	f.tcp = newTCPTable(f, stack)
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(context.Background())
	f.pinger = newPinger(f)
	go f.sweep(ctx)
	go f.writeLog(ctx)
	return f, nil
}

// sweep expires, once a second, the state that no event ends.
func (f *Forwarder) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			f.udp.sweep(now)
			f.tcp.sweep(now)
			f.reassembly.Sweep(now)
			f.pinger.sweep(now)
		case <-ctx.Done():
			return
		}
	}
}

// Denied reports whether target must never be reached, and counts it if so.
func (f *Forwarder) Denied(target netip.AddrPort) bool {
	if !f.cfg.Deny(target) {
		return false
	}
	f.metrics.denied.Inc()
	return true
}

// targetOf returns the address behind the router for an address that a client sent to: for
// 4via6 the IPv4 address in it, otherwise a itself.
func targetOf(a netip.Addr) netip.Addr { return routes.Target(a) }

// delivery is the state of one call of [Forwarder.Deliver].
type delivery struct {
	packet packet.Packet
	udp    udpRun
	tcp    packet.Coalescer
	scope  scope
}

// scope limits the packets that a delivery accepts.
type scope int

const (
	anyPacket scope = iota
	unclaimed       // no peer router has its flow
	openFlows       // only packets of flows that are open here
)

var deliveries = sync.Pool{New: func() any { return new(delivery) }}

// Deliver takes IP packets that a peer sent to targets behind the router: packet i is
// packets[i][offset:]. They are valid only during the call. Calls may be concurrent, but not
// for one peer.
func (f *Forwarder) Deliver(packets [][]byte, offset int) {
	d := f.newDelivery(anyPacket)
	for _, raw := range packets {
		f.deliver(d, raw[offset:])
	}
	f.finish(d)
}

// DeliverUnclaimed takes a packet that [Config.PeerRouters] relayed and no router has a flow
// for.
func (f *Forwarder) DeliverUnclaimed(raw []byte) {
	d := f.newDelivery(unclaimed)
	f.deliver(d, raw)
	f.finish(d)
}

// Relayed is the outcome of [Forwarder.DeliverRelayed].
type Relayed int

// The outcomes of [Forwarder.DeliverRelayed].
const (
	RelayedRefused Relayed = iota // denied, malformed, a fragment, or a packet that would open a flow
	RelayedUnknown                // a datagram that belongs to no flow here
	RelayedReset                  // a segment that belongs to no connection here; answered with a reset
	RelayedTaken                  // delivered to its flow
)

// DeliverRelayed takes a client's packet that another router relayed, if the packet belongs to
// a flow that is open here and the deny list and the access rules still allow it. Other routers
// reassemble packets before they relay them, and open flows themselves. The packet is valid
// only during the call.
func (f *Forwarder) DeliverRelayed(raw []byte) Relayed {
	d := f.newDelivery(openFlows)
	d.udp.relayed = true
	defer f.finish(d)
	p := &d.packet
	if !p.Parse(raw) || p.Fragment {
		return RelayedRefused
	}
	switch p.Protocol {
	case packet.ProtoUDP:
		key := flowKey{netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort)}
		if !p.UDPChecksumOK() || f.check(packet.ProtoUDP, key) != allowed {
			return RelayedRefused
		}
		if f.udp.deliver(d) {
			return RelayedTaken
		}
		return RelayedUnknown
	case packet.ProtoTCP:
		segment, err := p.Segment()
		if err != nil || packet.OpensConnection(segment) {
			return RelayedRefused
		}
		src, dst := packet.SegmentPorts(segment)
		key := flowKey{netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst)}
		if f.check(packet.ProtoTCP, key) != allowed {
			return RelayedRefused
		}
		found := f.endpoint.find(p, networkOf(p), segment) != nil
		d.tcp.Add(p, segment)
		if found {
			return RelayedTaken
		}
		return RelayedReset
	}
	return RelayedRefused
}

func (f *Forwarder) newDelivery(s scope) *delivery {
	d := deliveries.Get().(*delivery)
	d.tcp.Sink = f.endpoint
	d.scope = s
	return d
}

func (f *Forwarder) finish(d *delivery) {
	f.udp.flush(&d.udp)
	d.tcp.Flush()
	d.packet, d.udp.relayed = packet.Packet{}, false
	deliveries.Put(d)
}

// handedOff reports whether a packet that belongs to no flow here needs nothing more: a peer
// router took it, or the delivery accepts only packets of open flows.
func (f *Forwarder) handedOff(d *delivery) bool {
	switch d.scope {
	case openFlows:
		return true
	case unclaimed:
		return false
	case anyPacket:
		return f.cfg.PeerRouters != nil && f.cfg.PeerRouters.MayHaveFlow() && f.cfg.PeerRouters.Relay(d.packet.Raw)
	}
	return false
}

// needsLookup reports whether a packet without a flow may belong to a peer router, so that
// deliver must look for an existing flow first.
func (f *Forwarder) needsLookup(d *delivery) bool {
	return d.scope == anyPacket && f.cfg.PeerRouters != nil && f.cfg.PeerRouters.MayHaveFlow()
}

func (f *Forwarder) deliver(d *delivery, raw []byte) {
	p := &d.packet
	if !p.Parse(raw) {
		f.drops.add(dropMalformed, 1)
		return
	}
	if p.Fragment {
		whole := f.reassembly.Add(p.Raw, time.Now())
		if whole == nil {
			return // incomplete, or counted as dropped
		}
		if !p.Parse(whole) || p.Fragment {
			f.drops.add(dropMalformed, 1)
			return
		}
	}
	switch p.Protocol {
	case packet.ProtoTCP:
		f.endpoint.deliverTCP(f, d)
	case packet.ProtoUDP:
		f.udp.deliver(d)
	case packet.ProtoICMP, packet.ProtoICMPv6:
		f.deliverICMP(p)
	default:
		f.drops.add(dropUnsupported, 1)
		f.refuse(p, packet.AdminProhibited)
	}
}

// Receive waits for packets to peers and fills bufs[i][offset:] and sizes[i]. It returns
// [ErrClosed] once the forwarder is closed. Only one goroutine may call it.
func (f *Forwarder) Receive(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	return f.link.receive(bufs, sizes, offset)
}

// Active returns the number of open flows of each protocol.
func (f *Forwarder) Active() (tcp, udp int) {
	f.udp.mu.Lock()
	udp = len(f.udp.flows)
	f.udp.mu.Unlock()
	return f.tcp.count(), udp
}

// Close cuts the remaining flows and returns how many of each protocol there were. Keep calling
// Receive until Close returns, so that the resets reach the clients.
func (f *Forwarder) Close() (tcp, udp int) {
	f.closeOnce.Do(f.close)
	return f.closed.tcp, f.closed.udp
}

func (f *Forwarder) close() {
	f.peersMu.Lock()
	f.closing = true
	f.peersMu.Unlock()
	f.closed.tcp, f.closed.udp = f.Cut()
	f.cancel()
	close(f.link.closed)
	f.poll.close(f.polled)
	f.sched.close()
	f.pinger.close()
	f.reassembly.Close()
	f.link.discard()
}

// The reasons why a flow could not be opened. The set is closed because it is a metric's label.
const (
	refused     = "refused"
	timedOut    = "timeout"
	unreachable = "unreachable"
	exhausted   = "exhausted" // descriptors, ports or the kernel's memory ran out
	limited     = "limit"     // MaxFlows or MaxFlowsPerPeer is reached
	forbidden   = "forbidden" // by the deny list or the access rules
	other       = "other"
)

func dialFailure(err error) string {
	is := func(errnos ...syscall.Errno) bool {
		return slices.ContainsFunc(errnos, func(e syscall.Errno) bool { return errors.Is(err, e) })
	}
	switch {
	case is(syscall.ECONNREFUSED):
		return refused
	case is(syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN):
		return unreachable
	// Without a free port, TCP fails with EADDRNOTAVAIL and UDP with EAGAIN. ENOSPC is the
	// limit of watched files.
	case is(syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN,
		syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC):
		return exhausted
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), is(syscall.ETIMEDOUT):
		return timedOut
	}
	return other
}
