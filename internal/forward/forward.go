// Package forward is the data path: it carries TCP, UDP and ICMP echo from
// tailnet peers to addresses behind the router. It knows neither Tailscale nor
// AWS: IP packets of peers come in through [Forwarder.Deliver], those for peers
// go out through [Forwarder.Receive], and sockets stand between.
//
// UDP and ICMP are handled packet by packet; only TCP has a stack, gVisor's. All
// flows share one event queue and a few workers: a flow that is idle has neither
// goroutine nor buffer.
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

	"subnetrouter/internal/routes"

	"github.com/prometheus/client_golang/prometheus"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Config says how to forward. The zero value of a field means the default that
// its comment gives.
type Config struct {
	// MTU of the tailnet. Default: 1280, Tailscale's.
	MTU int
	// Resolve says where a target is really dialed; the network is "tcp" or
	// "udp". Default: at itself.
	Resolve func(network string, target netip.AddrPort) (netip.AddrPort, error)
	// Deny reports targets, 4via6 undone, that must never be reached. It is asked for
	// every packet: it must not block or allocate. Default: none.
	Deny func(target netip.AddrPort) bool
	// DenyDial is Deny for the address that Resolve returned. Default: Deny.
	DenyDial func(target netip.AddrPort) bool
	// Allow reports whether the tailnet's access rules, as they are now, let a client
	// open a flow of an IP protocol to dst, 4via6 not undone. It must not block.
	// Default: they do.
	Allow func(protocol uint8, client netip.Addr, dst netip.AddrPort) bool
	// DialTimeout bounds a TCP dial; a client's own SYN gives up after about
	// as long as several of its retransmissions. Default: 10 s.
	DialTimeout time.Duration
	// MaxFlows and MaxFlowsPerPeer bound what is open at once. Default: what
	// [Forwarder.RecomputeLimits] derives from the process.
	MaxFlows, MaxFlowsPerPeer int
	// Peer maps a client's address to the one that stands for its node, so that
	// all of a node's addresses share its limit. It is asked at most once for a
	// flow, from where packets are delivered: it must not wait for that.
	// Default: each address is a peer.
	Peer func(client netip.Addr) netip.Addr
	// KeepAlive is the silence after which both sides of a TCP flow are probed.
	// Default: 60 s.
	KeepAlive time.Duration
	// ReservedPorts are UDP ports that no flow takes as its source port: those of the
	// process's own listeners. Default: none.
	ReservedPorts []uint16
	// PeerRouters is asked about packets of no flow here. Default: they are nobody's.
	PeerRouters PeerRouters
	// Finished hears of each flow that ends. It must not block. Default: nobody does.
	Finished func(Flow)
	// Registerer takes the metrics. Default: none are kept.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// PeerRouters knows of other routers whose flows a packet may be of.
type PeerRouters interface {
	// MayHaveFlow reports whether there are any, for otherwise nothing is asked.
	MayHaveFlow() bool
	// Relay passes a packet on, and reports whether it did. The packet is valid during
	// the call only.
	Relay(packet []byte) bool
}

// Forwarder forwards. Create it with [New].
type Forwarder struct {
	cfg      Config
	mtu      int
	log      *slog.Logger
	metrics  *metrics
	drops    *drops
	logLines chan slog.Record
	buffers  sync.Pool // of *[]byte, bufferSize each

	link       *link
	endpoint   *linkEndpoint
	sched      *scheduler
	poll       *poller
	polled     chan struct{} // closed when the poller has ended
	udp        *udpTable
	tcp        *tcpTable
	reassembly *reassembly
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

// bufferSize takes the largest datagram with its headers, a run of them, and enough of a stream
// to be worth the system call.
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
		reassembly: newReassembly(dropped, cfg.Peer),
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

// sweep looks after what no event ends.
func (f *Forwarder) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			f.udp.sweep(now)
			f.tcp.sweep(now)
			f.reassembly.sweep(now)
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

// targetOf undoes 4via6.
func targetOf(a netip.Addr) netip.Addr { return routes.Target(a) }

// delivery is a batch under way.
type delivery struct {
	packet inbound
	udp    udpRun
	tcp    tcpRun
	scope  scope
}

// only narrows down which packets a delivery takes.
type scope int

const (
	anyPacket scope = iota
	unclaimed       // nobody else's
	openFlows       // of flows that are open
)

var deliveries = sync.Pool{New: func() any { return new(delivery) }}

// Deliver takes IP packets that a peer sent to targets behind the router: packet
// i is packets[i][offset:]. They are valid during the call only. Calls may be
// concurrent, but not for one peer.
func (f *Forwarder) Deliver(packets [][]byte, offset int) {
	d := f.newDelivery(anyPacket)
	for _, raw := range packets {
		f.deliver(d, raw[offset:])
	}
	f.finish(d)
}

// DeliverUnclaimed takes a packet that [Config.PeerRouters] took, and nobody wanted.
func (f *Forwarder) DeliverUnclaimed(packet []byte) {
	d := f.newDelivery(unclaimed)
	f.deliver(d, packet)
	f.finish(d)
}

// Relayed is the outcome for a packet that another router relayed.
type Relayed int

// The outcomes of [Forwarder.DeliverRelayed].
const (
	RelayedRefused Relayed = iota // denied, malformed, a fragment, or one that would open a flow
	RelayedUnknown                // a datagram of no flow here
	RelayedReset                  // a segment of no connection here, answered by a reset
	RelayedTaken                  // of a flow here
)

// DeliverRelayed takes a client's packet that another router relayed, if it is of a flow
// that is open here and that the deny list and the access rules let through now. Other
// routers reassemble packets before they relay them, and open flows themselves.
// The packet is valid during the call only.
func (f *Forwarder) DeliverRelayed(packet []byte) Relayed {
	d := f.newDelivery(openFlows)
	d.udp.relayed = true
	defer f.finish(d)
	p := &d.packet
	if !p.parse(packet) || p.fragment {
		return RelayedRefused
	}
	switch p.protocol {
	case protoUDP:
		key := flowKey{netip.AddrPortFrom(p.src, p.srcPort), netip.AddrPortFrom(p.dst, p.dstPort)}
		if !p.checksumOK() || f.check(protoUDP, key) != allowed {
			return RelayedRefused
		}
		if f.udp.deliver(d) {
			return RelayedTaken
		}
		return RelayedUnknown
	case protoTCP:
		segment, _ := validSegment(p)
		if segment == nil || opensConnection(segment) {
			return RelayedRefused
		}
		ports := header.TCP(segment)
		key := flowKey{netip.AddrPortFrom(p.src, ports.SourcePort()), netip.AddrPortFrom(p.dst, ports.DestinationPort())}
		if f.check(protoTCP, key) != allowed {
			return RelayedRefused
		}
		found := f.endpoint.find(p, networkOf(p), segment) != nil
		d.tcp.add(p, segment)
		if found {
			return RelayedTaken
		}
		return RelayedReset
	}
	return RelayedRefused
}

func (f *Forwarder) newDelivery(s scope) *delivery {
	d := deliveries.Get().(*delivery)
	d.tcp.endpoint = f.endpoint
	d.scope = s
	return d
}

func (f *Forwarder) finish(d *delivery) {
	f.udp.flush(&d.udp)
	d.tcp.flush()
	d.packet, d.udp.relayed = inbound{}, false
	deliveries.Put(d)
}

// elsewhere reports whether a packet that is of no flow is not for this router: passed
// on, or of a flow that is to be open here and is not.
func (f *Forwarder) handedOff(d *delivery) bool {
	switch d.scope {
	case openFlows:
		return true
	case unclaimed:
		return false
	}
	return f.cfg.PeerRouters != nil && f.cfg.PeerRouters.MayHaveFlow() && f.cfg.PeerRouters.Relay(d.packet.raw)
}

// asks reports whether [Forwarder.elsewhere] is worth finding out if there is a flow.
func (f *Forwarder) needsLookup(d *delivery) bool {
	return d.scope == anyPacket && f.cfg.PeerRouters != nil && f.cfg.PeerRouters.MayHaveFlow()
}

func (f *Forwarder) deliver(d *delivery, raw []byte) {
	p := &d.packet
	if !p.parse(raw) {
		f.drops.add(dropMalformed, 1)
		return
	}
	if p.fragment {
		whole := f.reassembly.add(p.raw, time.Now())
		if whole == nil {
			return // it waits for others, or is counted
		}
		if !p.parse(whole) || p.fragment {
			f.drops.add(dropMalformed, 1)
			return
		}
	}
	switch p.protocol {
	case protoTCP:
		f.endpoint.deliverTCP(f, d)
	case protoUDP:
		f.udp.deliver(d)
	case protoICMP, protoICMPv6:
		f.deliverICMP(p)
	default:
		f.drops.add(dropUnsupported, 1)
		f.refuse(p, adminProhibited)
	}
}

// Receive waits for packets to peers and fills bufs[i][offset:] and sizes[i]. It
// returns [ErrClosed] once the forwarder is closed. It is for one caller.
func (f *Forwarder) Receive(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	return f.link.receive(bufs, sizes, offset)
}

// Active counts the flows that are open now, by protocol.
func (f *Forwarder) Active() (tcp, udp int) {
	f.udp.mu.Lock()
	udp = len(f.udp.flows)
	f.udp.mu.Unlock()
	return f.tcp.count(), udp
}

// Close ends every flow that is left, so that both ends see it at once, and
// reports how many there were of each protocol. Receive should go on being called
// until Close returns, for the resets to reach their clients.
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
	f.reassembly.close()
	f.link.discard()
}

// The reasons of a failed dial: a closed set, for it is a metric's label.
const (
	refused     = "refused"
	timedOut    = "timeout"
	unreachable = "unreachable"
	exhausted   = "exhausted" // files, ports, or the kernel's memory
	limited     = "limit"     // MaxFlows, MaxFlowsPerPeer
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
	// TCP runs out of ports with EADDRNOTAVAIL, UDP with EAGAIN. ENOSPC is the limit of
	// watched files.
	case is(syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN,
		syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC):
		return exhausted
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), is(syscall.ETIMEDOUT):
		return timedOut
	}
	return other
}
