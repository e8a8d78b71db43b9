// Package forward is the data path: it carries TCP, UDP and ICMP echo from tailnet peers to
// addresses behind the router. It depends on neither Tailscale nor AWS: IP packets from peers
// enter through [Forwarder.Deliver], packets to peers leave through [Forwarder.Receive], and
// the targets are reached through ordinary sockets.
//
// UDP and ICMP are handled packet by packet. A client's TCP connection ends here, in package tcp.
// All flows share one event queue and a few workers: an idle flow has neither a goroutine nor a
// buffer.
//
// Its files are layers, each of which uses those below it:
//
//	forward                       the exported type: everything that enters, leaves and ends
//	udp, stream, icmp             one flow table for each protocol
//	  udpstate, ports               for UDP: decisions without I/O; source ports
//	  streambatch, streammove,      for TCP: packets of the client; bytes between its connection
//	  silence, keepalive            and the target; targets and clients that disappeared
//	  echosocket                    for ICMP
//	table                         the interface of a flow table, and the work on all flows
//	own, owntcp, ownconn,         the node's own addresses: listeners, and connections to peers
//	owndatagrams
//	responder                     a port of an address behind the router that this process serves
//	core                          the parts that the tables share:
//	  rules, dial                   the permitted targets
//	  limits, nodes, buffers        the bounds on flows and on their memory
//	  account, metrics, route       counts
//	  sched, poll, sock             the event loop, and sockets towards targets
//	  send, link, bufferpool        packets towards clients
//	flow, peers, protocol,        the words of all of these
//	reasons, drops, config
package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/packet"
)

// Forwarder is the data path of one router. Create it with [New].
type Forwarder struct {
	*core
	cfg    Config
	tables tables
	own    *own
	responders
	reassembly *packet.Reassembler
	deliveries sync.Pool // of *delivery

	cancel    context.CancelFunc // of the goroutines that New started
	closeOnce sync.Once
	closed    Counts // flows that Close cut; written by closeOnce
}

// New creates a Forwarder, and starts its workers. They run until Close.
func New(cfg Config) (*Forwarder, error) {
	f, err := build(cfg)
	if err != nil {
		return nil, err
	}
	f.start()
	return f, nil
}

// build creates a Forwarder without workers. Tests change its times before they call start.
func build(cfg Config) (*Forwarder, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("creating forwarder: %w", err)
	}
	c, err := newCore(&cfg)
	if err != nil {
		return nil, err
	}
	f := &Forwarder{core: c, cfg: cfg, own: newOwn(c, cfg.Congestion)}
	f.reassembly = packet.NewReassembler(packet.ReassemblerConfig{Node: cfg.Peer, Dropped: c.drops.fragments})
	f.tables = tables{TCP: newStreamTable(c, cfg.Congestion), UDP: newUDPTable(c, cfg.ReservedPorts), ICMP: newPinger(c, cfg.Peer)}
	f.deliveries.New = f.newDelivery
	return f, nil
}

// start runs the workers until Close.
func (f *Forwarder) start() {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(context.Background())
	go f.sweep(ctx)
	go f.logs.run(ctx)
}

// sweep expires, once a second, the state that no event ends.
func (f *Forwarder) sweep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			f.tables.sweep(now)
			f.reassembly.Sweep(now)
		case <-ctx.Done():
			return
		}
	}
}

// delivery is the state of one call of [Forwarder.Deliver]. It is empty between calls.
type delivery struct {
	packet  packet.Packet
	batches [protocolCount]batch
}

// newDelivery returns an empty delivery for the pool.
func (f *Forwarder) newDelivery() any {
	d := new(delivery)
	for p, table := range f.tables {
		d.batches[p] = table.newBatch()
	}
	return d
}

// finish forwards what the batches gathered. The delivered packets are not used after it.
func (f *Forwarder) finish(d *delivery) {
	for _, b := range d.batches {
		b.flush()
	}
	d.packet = packet.Packet{}
	f.deliveries.Put(d)
}

// Deliver takes IP packets that a peer sent to targets behind the router: packet i is
// packets[i][offset:]. They are valid only during the call. Calls may be concurrent, but not
// for one peer.
func (f *Forwarder) Deliver(packets [][]byte, offset int) {
	d := f.deliveries.Get().(*delivery)
	for _, raw := range packets {
		f.deliver(d, raw[offset:], f.cfg.PeerRouters)
	}
	f.finish(d)
}

// DeliverUnclaimed takes a packet that [Config.PeerRouters] relayed and no router has a flow
// for.
func (f *Forwarder) DeliverUnclaimed(raw []byte) {
	d := f.deliveries.Get().(*delivery)
	f.deliver(d, raw, noPeerRouters{})
	f.finish(d)
}

// DeliverRelayed takes a client's packet that another router relayed, if the packet belongs to
// a flow that is open here, or goes to the responder, and the deny list and the access rules still allow it. Other routers
// reassemble packets before they relay them, and open flows themselves. The packet is valid
// only during the call.
func (f *Forwarder) DeliverRelayed(raw []byte) Relayed {
	d := f.deliveries.Get().(*delivery)
	defer f.finish(d)
	p := &d.packet
	if !p.Parse(raw) || p.Fragment {
		return RelayedRefused
	}
	if s := f.responder.Load(); s.takes(p) {
		return s.deliver(p, noPeerRouters{})
	}
	protocol, ok := protocolOf(p.Protocol)
	if !ok {
		return RelayedRefused
	}
	return d.batches[protocol].deliverRelayed(p)
}

// deliver passes one packet to the table of its protocol. Each packet that does not get there is
// counted as dropped, or is a fragment that waits for others.
func (f *Forwarder) deliver(d *delivery, raw []byte, peers PeerRouters) {
	p := &d.packet
	if !f.parse(p, raw) {
		return
	}
	if s := f.responder.Load(); s.takes(p) {
		s.deliver(p, peers)
		return
	}
	f.dispatch(d, peers)
}

// dispatch passes the packet of a delivery to the table of its protocol.
func (f *Forwarder) dispatch(d *delivery, peers PeerRouters) {
	p := &d.packet
	protocol, ok := protocolOf(p.Protocol)
	if !ok {
		f.drops.add(dropUnsupported, 1)
		f.sender.refuse(p, packet.AdminProhibited)
		return
	}
	d.batches[protocol].deliver(p, peers)
}

// parse parses raw into p, or the datagram that raw is the last missing fragment of. It reports
// false if there is no whole packet: raw is counted as dropped, or waits for other fragments.
func (f *Forwarder) parse(p *packet.Packet, raw []byte) bool {
	if !p.Parse(raw) {
		f.drops.add(dropMalformed, 1)
		return false
	}
	if !p.Fragment {
		return true
	}
	whole := f.reassembly.Add(p.Raw, time.Now())
	if whole == nil {
		return false // incomplete, or counted as dropped
	}
	if !p.Parse(whole) || p.Fragment {
		f.drops.add(dropMalformed, 1)
		return false
	}
	return true
}

// Receive waits for packets to peers and adds as many to an empty slab as fit, which must have
// room for at least one of 64 KiB. It returns [ErrClosed] once the forwarder is closed. Only one
// goroutine may call it.
func (f *Forwarder) Receive(to *packet.Slab) error { return f.link.receive(to) }

// Prohibit answers a peer's IP packet with an ICMP error "administratively prohibited" (RFC
// 1812 section 5.2.7.1, RFC 4443 section 3.1). If the packet is a datagram or opens a TCP
// connection, it reports the denial to the peer's node, too: [Config.Rejection]. It sends nothing
// where RFC 1122 section 3.2.2
// forbids an error: for ICMP messages other than echo requests, for fragments other than the
// first, and for packets whose source or destination is not a single host.
func (f *Forwarder) Prohibit(raw []byte) { f.sender.prohibit(raw) }

// Denied reports whether target must never be reached, and counts it if so.
func (f *Forwarder) Denied(target netip.AddrPort) bool { return f.rules.denies(target) }

// Dial opens a TCP connection to target as a flow would, with the same checks, and closes it.
func (f *Forwarder) Dial(ctx context.Context, target netip.AddrPort) error {
	return f.rules.dial(ctx, target)
}

// DialConn opens a connection of the process to target, with the checks of a flow, from a port of
// the system's choice. The network is "tcp" or "udp"; a UDP connection only receives from target.
func (f *Forwarder) DialConn(ctx context.Context, network string, target netip.AddrPort) (net.Conn, error) {
	return f.rules.connection(ctx, network, target)
}

// SetRoutes sets the advertised routes that flows are counted by; 4via6 routes are IPv6
// prefixes here. Routes beyond the first 50 are counted as "other". A route that is no longer
// advertised keeps its series until another route needs the room.
func (f *Forwarder) SetRoutes(prefixes []netip.Prefix) { f.routes.set(prefixes) }

// RecomputeLimits derives the limits from the memory limit (GOMEMLIMIT, debug.SetMemoryLimit),
// and raises the limit of open files to the hard limit. Call it when the memory limit has
// changed. Open flows stay open.
func (f *Forwarder) RecomputeLimits() Limit { return f.limits.recompute() }

// FrontMemory is the part of the budget for buffers that connections of fronts take ([Config.Front]).
type FrontMemory struct{ budget *bufferBudget }

// FrontMemory returns the part of the budget for fronts.
func (f *Forwarder) FrontMemory() FrontMemory { return FrontMemory{f.memory} }

// Reserve takes n bytes, or returns false if there is no room for them.
func (m FrontMemory) Reserve(n int64) bool { return m.budget.reserveFront(n) }

// Release returns n bytes that Reserve took.
func (m FrontMemory) Release(n int64) { m.budget.releaseFront(n) }

// Reserve takes n bytes of the budget for buffers, for a connection of a program of the VPC into the tailnet. It returns
// false if there is no room. [Forwarder.Release] returns them.
func (f *Forwarder) Reserve(n int64) bool { return f.memory.reserve(n) }

// Release returns n bytes that [Forwarder.Reserve] took.
func (f *Forwarder) Release(n int64) { f.memory.release(n) }

// Limit returns the current limits.
func (f *Forwarder) Limit() Limit { return f.limits.current() }

// TopClient returns the node with the most open flows, by one of its addresses, and their
// number.
func (f *Forwarder) TopClient() (client netip.Addr, flows int) { return f.limits.top() }

// Active returns the number of open flows of each protocol. An echo request is no open flow.
func (f *Forwarder) Active() Counts { return f.tables.active() }

// Flows returns up to n open flows, those that moved the most bytes first.
func (f *Forwarder) Flows(n int) []Flow { return f.tables.describe(n) }

// InUse reports whether a flow goes to an address of the VPC, also one that is being opened or
// ended.
func (f *Forwarder) InUse(target netip.Addr) bool { return f.tables.inUse(target) }

// Busy returns the number of flows that are being opened, have just moved data, have an
// unanswered request of the last 2 s, or have bytes that a TCP client has yet to acknowledge
// while its acknowledgements have advanced within the last 5 s.
func (f *Forwarder) Busy() int { return f.tables.busy() }

// AwaitIdle waits until no flow is busy. It returns false if ctx ends first.
func (f *Forwarder) AwaitIdle(ctx context.Context) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for f.Busy() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Recheck ends the open flows that the deny list or the access rules no longer allow, and
// returns their number. TCP clients get a reset. Call it after each change of either: nothing
// else checks open flows again.
func (f *Forwarder) Recheck() (ended int) {
	if ended = f.tables.revoke(f.rules); ended > 0 {
		f.cfg.Logger.Info("ended flows that are no longer allowed", "flows", ended)
	}
	return ended
}

// closeWait bounds how long a cut waits for the tailnet to take its resets.
const closeWait = 2 * time.Second

// closeGrace is the time for the engine to send the last batch that it took: the engine closes
// with the link and drops packets in flight.
const closeGrace = 50 * time.Millisecond

// Cut ends every open flow and returns how many of each protocol there were: TCP flows with a
// reset to both ends, UDP flows silently. New flows are still accepted. Keep calling Receive
// meanwhile, so that the resets reach the clients.
func (f *Forwarder) Cut() Counts {
	n := f.tables.cut()
	if n.Total() == 0 {
		return n
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(closeWait); time.Now().Before(deadline); <-tick.C {
		if f.tables.ending() == 0 && f.link.empty() {
			break
		}
	}
	<-time.After(closeGrace)
	return n
}

// Close cuts the remaining flows and returns how many of each protocol there were. Keep calling
// Receive until Close returns, so that the resets reach the clients.
func (f *Forwarder) Close() Counts {
	f.closeOnce.Do(f.close)
	return f.closed
}

// close ends the parts in the order in which they depend on each other: no new flows, no flows,
// no events, and then nothing that could use a socket or the link.
func (f *Forwarder) close() {
	f.limits.close()
	f.closed = f.Cut()
	f.cancel()
	f.core.close()
	f.responders.close()
	f.own.close() // the resets of both do not wait for room in the link, which is closed
	f.tables.close()
	f.reassembly.Close()
	f.link.discard()
}
