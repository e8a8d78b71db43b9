package forward

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// A DNS flow ends when each query has its answer. A forwarding resolver may take longer than a
// client's first timeout, and clients keep listening while they retry: 30 s is also
// tailscaled's timeout. Other flows live for at least two minutes, as RFC 4787 section 4.3
// requires.
const (
	dnsPort        = 53
	dnsIdleTimeout = 30 * time.Second
	udpIdleTimeout = 2 * time.Minute
)

// A client that got an answer often sends another query soon, and opening a socket costs more
// than a query. So up to maxIdleDNS answered flows stay open for idleDNSWait, at any rate of
// queries, unless their room is needed. Meanwhile the client may continue the flow, or send
// from another port, as resolvers do; see [udpTable.reuseSocket].
const (
	maxIdleDNS  = 128
	idleDNSWait = time.Second
)

// groAfter is the number of received datagrams from which a flow asks the kernel for runs of
// them (GRO). Most flows get a single answer, which would not repay the system call.
const groAfter = 4

// receiveBudget is the number of receives that a flow may make before other flows get a turn.
const receiveBudget = 32

// udpTable holds the flows of UDP: each is a connected socket, so that only the target can
// answer into it, and has no buffer while no bytes move.
type udpTable struct {
	f     *Forwarder
	ports sourcePorts

	mu       sync.Mutex
	flows    map[flowKey]*udpFlow
	idle     [maxIdleDNS]idleDNS // a ring buffer
	nextIdle int                 // index of the next entry
}

// idleDNS is an answered DNS flow. The entry is stale once flow.queries != queries.
type idleDNS struct {
	flow    *udpFlow
	queries int
}

// flowKey identifies a flow as its client sees it: dst may be a 4via6 address.
type flowKey struct{ client, dst netip.AddrPort }

type udpFlow struct {
	task
	record
	table     *udpTable
	dns       bool
	connected time.Time
	gro       bool // the kernel returns runs of datagrams

	// boundTarget is the dialed target if the socket is bound to the client's source port,
	// else invalid. It does not change once the flow is in the table. older is the next
	// flow in the list of flows with that port, guarded by sourcePorts.mu.
	boundTarget netip.AddrPort
	older       *udpFlow

	mu      sync.Mutex // locked while fd is in use: once closed, its number may be reused
	fd      int        // -1 once closed
	pending []uint16   // for DNS: IDs of the unanswered queries
	queries int        // for DNS: all queries so far
	reused  bool       // fd came from another flow; late answers to its queries may arrive
}

// maxPendingQueries bounds udpFlow.pending. A flow with more belongs to a resolver of many
// clients, and ends by its idle timeout.
const maxPendingQueries = 64

// queryID returns the ID that an answer repeats from its query (RFC 1035 section 4.1.1).
func queryID(datagram []byte) uint16 {
	if len(datagram) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(datagram)
}

// udpRun gathers datagrams of one flow and size, to send them with one call.
type udpRun struct {
	flow     *udpFlow
	payloads [][]byte
	bytes    int
	relayed  bool // by a peer router: such datagrams open no flow
}

// deliver takes a datagram from a peer. It returns false if the delivery accepts only open
// flows and there is none. The datagram may stay in the run until the next call or
// [udpTable.flush].
func (t *udpTable) deliver(d *delivery) (took bool) {
	p, run := &d.packet, &d.udp
	if !p.UDPChecksumOK() {
		t.f.drops.add(dropChecksum, 1)
		return true
	}
	key := flowKey{netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort)}
	if fl := run.flow; fl != nil && (fl.key != key || len(run.payloads) == maxRun ||
		len(p.Data) > len(run.payloads[0]) || len(run.payloads[len(run.payloads)-1]) < len(run.payloads[0]) ||
		len(p.Data) == 0 || run.bytes+len(p.Data) > packet.MaxRun) {
		t.flush(run)
	}
	if run.flow == nil {
		fl := t.find(key)
		if fl == nil {
			if t.f.handedOff(d) {
				return d.scope != openFlows
			}
			if fl = t.open(key, p); fl == nil {
				t.f.drops.add(dropFlowFailed, 1)
				return true
			}
		}
		run.flow = fl
	}
	run.payloads = append(run.payloads, p.Data)
	run.bytes += len(p.Data)
	return true
}

func (t *udpTable) flush(run *udpRun) {
	if fl := run.flow; fl != nil && !fl.send(run.payloads) {
		// The flow ended after it was looked up: the client's datagrams open another.
		var next *udpFlow
		if !run.relayed {
			next = t.open(fl.key, nil)
		}
		if next == nil || !next.send(run.payloads) {
			t.f.drops.add(dropFlowFailed, len(run.payloads))
		}
	}
	clear(run.payloads)
	run.flow, run.payloads, run.bytes = nil, run.payloads[:0], 0
}

func (t *udpTable) find(key flowKey) *udpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// open opens the flow of datagram p, or answers p with the reason why it cannot, and returns
// nil. p is nil if the datagram is no longer available.
func (t *udpTable) open(key flowKey, p *packet.Packet) *udpFlow {
	f := t.f
	target := netip.AddrPortFrom(targetOf(key.dst.Addr()), key.dst.Port())
	refuse := func(reason packet.ICMPError) {
		if p != nil {
			f.refuse(p, reason)
		} else {
			f.sendUDPError(key, reason, 0)
		}
	}
	to := f.routes.lookup(key.dst.Addr())
	if verdict := f.check(packet.ProtoUDP, key); verdict != allowed {
		f.failed("udp", to, forbidden)
		if verdict == denied {
			refuse(packet.AdminProhibited)
		}
		return nil
	}
	node, ok := f.reserve(key.client.Addr())
	if !ok {
		f.failed("udp", to, limited)
		refuse(packet.PortUnreachable)
		return nil
	}
	fl := &udpFlow{
		record: record{key: key, target: target, peer: node, route: to, opened: time.Now()},
		table:  t, dns: target.Port() == dnsPort, fd: -1,
	}
	fl.step = fl.receive
	fl.begin()
	var err error
	if !fl.dns || !t.reuseSocket(fl) {
		err = fl.connect()
	}
	if err != nil {
		f.release(node)
		reason := dialFailure(err)
		f.failed("udp", to, reason)
		f.debug("opening UDP flow failed", "target", target, "reason", reason, "err", err)
		refuse(unreachableFor(reason))
		return nil
	}
	fl.activity.fromClient()
	t.mu.Lock()
	before := t.flows[key]
	// Datagrams of one flow may arrive on several goroutines at once, as when a peer router
	// returns them: the flow that is in the table first stays. One of another peer that had
	// the same address a moment ago is replaced.
	if before != nil && before.peer == node && time.Since(before.opened) < time.Second {
		t.mu.Unlock()
		fl.abandon()
		return before
	}
	t.flows[key] = fl
	t.mu.Unlock()
	if before != nil {
		t.close(before, ended)
	}
	f.sched.done(&fl.task) // events may run it from now on
	f.metrics.opened["udp"].Inc()
	f.metrics.active["udp"].Inc()
	// The check above may predate a change of the deny list or the rules whose Recheck did
	// not see the flow in the table.
	if f.check(packet.ProtoUDP, key) != allowed {
		t.close(fl, revoked)
		return nil
	}
	return fl
}

// abandon releases the resources of a flow that did not get into the table.
func (fl *udpFlow) abandon() {
	fl.mu.Lock()
	fd := fl.fd
	fl.fd = -1
	fl.mu.Unlock()
	fl.table.f.poll.forget(fd)
	unix.Close(fd)
	fl.table.ports.release(fl)
	fl.table.f.release(fl.peer)
}

// connect opens the flow's socket: from the client's own port if that is free; for DNS from a
// port of the kernel's choice, which is at least as random as the client's (RFC 5452 section
// 9.2).
func (fl *udpFlow) connect() error {
	f, t := fl.table.f, fl.table
	to, err := f.resolve("udp", fl.target)
	if err != nil {
		return err
	}
	from := anyPort
	if !fl.dns {
		if ok, shared := t.ports.assign(fl, to); ok {
			from = sourcePort{fl.key.client.Port(), shared}
		}
	}
	fd, bound, err := connectFrom(unix.SOCK_DGRAM, from, to)
	if !bound {
		t.ports.release(fl)
		fl.boundTarget = netip.AddrPort{}
	}
	if err != nil {
		return err
	}
	fl.connected = fl.opened
	fl.mu.Lock()
	fl.fd = fd
	fl.mu.Unlock()
	if err := f.poll.watch(fd, readable, &fl.task); err != nil {
		fl.mu.Lock()
		fl.fd = -1
		fl.mu.Unlock()
		unix.Close(fd)
		t.ports.release(fl)
		return err
	}
	return nil
}

// send sends a run to the target. It returns false if the flow has ended.
func (fl *udpFlow) send(payloads [][]byte) bool {
	fl.activity.fromClient()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.fd < 0 {
		return false
	}
	if fl.dns {
		for _, b := range payloads {
			if id := queryID(b); !slices.Contains(fl.pending, id) && len(fl.pending) <= maxPendingQueries {
				fl.pending = append(fl.pending, id)
			}
		}
		fl.queries += len(payloads)
	}
	err := fl.transmit(payloads)
	if len(payloads) > 1 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EMSGSIZE)) {
		// The device does not segment, or the path MTU is smaller: send them singly.
		for i := range payloads {
			one := payloads[i : i+1]
			fl.sent(one, fl.transmit(one))
		}
		return true
	}
	fl.sent(payloads, err)
	return true
}

// transmit sends a run. If the call returns the error of an earlier datagram, it reports that
// to the client and repeats the call: the target may be up again.
func (fl *udpFlow) transmit(payloads [][]byte) error {
	err := sendRun(fl.fd, payloads)
	if errors.Is(err, unix.ECONNREFUSED) {
		fl.table.f.sendUDPError(fl.key, packet.PortUnreachable, 0)
		err = sendRun(fl.fd, payloads)
	}
	return err
}

// sent counts the run as sent or dropped, and sends the client an ICMP error if one is due. The
// kernel takes all datagrams of a call or none.
func (fl *udpFlow) sent(payloads [][]byte, err error) {
	f := fl.table.f
	var reason dropReason
	switch {
	case err == nil:
		bytes := 0
		for _, b := range payloads {
			bytes += len(b)
		}
		fl.up.count(bytes, len(payloads))
		f.metrics.toVPC["udp"].Add(float64(bytes))
		fl.route.toVPC.Add(float64(bytes))
		return
	case errors.Is(err, unix.EMSGSIZE):
		reason = dropTooBig
		f.sendUDPError(fl.key, packet.PacketTooBig, mtuOf(fl.fd, fl.target.Addr()))
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		reason = dropUnreachable
		f.sendUDPError(fl.key, packet.HostUnreachable, 0)
	case errors.Is(err, unix.ECONNREFUSED):
		reason = dropUnreachable
		f.sendUDPError(fl.key, packet.PortUnreachable, 0)
	case wouldBlock(err):
		reason = dropSocketBuffer
	default:
		reason = dropSendFailed
	}
	f.drops.add(reason, len(payloads))
}

// receive passes datagrams from the target to the client until the socket is empty. It is the
// task's step.
func (fl *udpFlow) receive() {
	f := fl.table.f
	buf := f.buffers.Get().(*[]byte)
	defer f.buffers.Put(buf)
	for range receiveBudget {
		fl.mu.Lock()
		if fl.fd < 0 {
			fl.mu.Unlock()
			return
		}
		if !fl.gro && fl.down.packets.Load() >= groAfter {
			receiveMany(fl.fd)
			fl.gro = true
		}
		n, size, foreign, err := receive(fl.fd, *buf, fl.boundTarget)
		fl.mu.Unlock()
		if err != nil {
			switch {
			case wouldBlock(err):
				return
			case errors.Is(err, unix.ECONNREFUSED):
				f.sendUDPError(fl.key, packet.PortUnreachable, 0)
			case errors.Is(err, unix.EHOSTUNREACH):
				f.sendUDPError(fl.key, packet.HostUnreachable, 0)
			}
			continue
		}
		if foreign {
			f.drops.add(dropUnmatched, (n+max(size, 1)-1)/max(size, 1))
			continue
		}
		fl.activity.fromTarget()
		count, answered := 0, false
		for b := (*buf)[:n]; ; {
			datagram := b[:min(size, len(b))]
			wanted, last := fl.matchAnswer(datagram)
			answered = answered || last
			if !wanted {
				f.drops.add(dropUnmatched, 1)
			} else if !f.sendUDP(fl.key.dst, fl.key.client, datagram) {
				return
			}
			count++
			if b = b[len(datagram):]; len(b) == 0 {
				break
			}
		}
		fl.down.count(n, count)
		f.metrics.toTailnet["udp"].Add(float64(n))
		fl.route.toTailnet.Add(float64(n))
		if answered {
			fl.keepIdle()
			return // nothing is pending; later datagrams are read with the next answer
		}
	}
	f.sched.ready(&fl.task) // there may be more: queue behind the other tasks
}

// matchAnswer removes the query that a datagram from the target answers. It reports whether the
// datagram is for this flow's client, and whether it was the last pending answer. A reused
// socket may receive answers to queries that another port of the client sent.
func (fl *udpFlow) matchAnswer(datagram []byte) (wanted, last bool) {
	if !fl.dns {
		return true, false
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	i := slices.Index(fl.pending, queryID(datagram))
	if i < 0 {
		return !fl.reused || len(fl.pending) > maxPendingQueries, false
	}
	if len(fl.pending) <= maxPendingQueries {
		fl.pending = slices.Delete(fl.pending, i, i+1)
	}
	return true, len(fl.pending) == 0
}

// keepIdle keeps an answered DNS flow open as an idle one, evicting the oldest of them if there
// are too many.
func (fl *udpFlow) keepIdle() {
	t := fl.table
	fl.mu.Lock()
	queries := fl.queries
	fl.mu.Unlock()
	t.mu.Lock()
	oldest := t.idle[t.nextIdle]
	t.idle[t.nextIdle] = idleDNS{fl, queries}
	t.nextIdle = (t.nextIdle + 1) % maxIdleDNS
	t.mu.Unlock()
	t.evict(oldest)
}

// takeSocket takes the socket out of an idle flow, so that no query can use it before the flow
// ends. It returns -1 if the flow has a new query or has ended.
func (r idleDNS) takeSocket() (fd int) {
	fl := r.flow
	if fl == nil {
		return -1
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.queries != r.queries || len(fl.pending) > 0 {
		return -1
	}
	fd, fl.fd = fl.fd, -1
	return fd
}

// evict ends an idle DNS flow, unless it has a new query, and reports whether it did.
func (t *udpTable) evict(r idleDNS) bool {
	fd := r.takeSocket()
	t.finish(r.flow, fd, ended)
	return fd >= 0
}

// reuseSocket gives fl the socket of an idle DNS flow between the same two hosts, and ends that
// flow. A socket is reused only within idleDNSWait of its opening: a port in use for longer
// could be discovered, and answers to it forged (RFC 5452 section 9.2).
func (t *udpTable) reuseSocket(fl *udpFlow) bool {
	fd, old := -1, (*udpFlow)(nil)
	t.mu.Lock()
	for i := range t.idle {
		r := &t.idle[(t.nextIdle+maxIdleDNS-1-i)%maxIdleDNS] // newest first
		if old = r.flow; old == nil || old.key.dst != fl.key.dst || old.key.client.Addr() != fl.key.client.Addr() ||
			fl.opened.Sub(old.connected) >= idleDNSWait {
			continue
		}
		fd = r.takeSocket()
		*r = idleDNS{}
		if fd >= 0 {
			break
		}
	}
	t.mu.Unlock()
	if fd < 0 {
		return false
	}
	fl.fd, fl.connected, fl.gro, fl.reused = fd, old.connected, old.gro, true
	t.f.poll.reassign(fd, &fl.task)
	t.remove(old, ended)
	return true
}

// evictIdleDNS ends the DNS flows that have been idle since before a time; it reports whether
// there were any.
func (t *udpTable) evictIdleDNS(since time.Time) (found bool) {
	t.mu.Lock()
	all := t.idle
	t.mu.Unlock()
	for _, r := range all {
		if r.flow != nil && r.flow.activity.at() <= instant(since) && t.evict(r) {
			found = true
		}
	}
	return found
}

// close ends a flow. Closing it again has no effect.
func (t *udpTable) close(fl *udpFlow, reason string) {
	fl.mu.Lock()
	fd := fl.fd
	fl.fd = -1
	fl.mu.Unlock()
	t.finish(fl, fd, reason)
}

// finish closes a socket that the caller took out of the flow, and ends the flow. With fd < 0
// another goroutine took the socket, and finish does nothing.
func (t *udpTable) finish(fl *udpFlow, fd int, reason string) {
	if fd < 0 {
		return
	}
	t.f.poll.forget(fd)
	unix.Close(fd)
	t.remove(fl, reason)
}

// remove removes a flow that has no socket any more from the table, and counts it as ended.
func (t *udpTable) remove(fl *udpFlow, reason string) {
	t.mu.Lock()
	if t.flows[fl.key] == fl {
		delete(t.flows, fl.key)
	}
	t.mu.Unlock()
	t.ports.release(fl)
	t.f.release(fl.peer)
	t.f.finished("udp", &fl.record, reason)
}

// idleTimeout returns the time without data after which the flow ends.
func (fl *udpFlow) idleTimeout() time.Duration {
	if fl.dns {
		return dnsIdleTimeout
	}
	return udpIdleTimeout
}

// sweep ends the flows that were idle for too long.
func (t *udpTable) sweep(now time.Time) {
	t.evictIdleDNS(now.Add(-idleDNSWait))
	var old []*udpFlow
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) {
		if instant(now)-fl.activity.at() > int64(fl.idleTimeout()) {
			old = append(old, fl)
		}
	})
	for _, fl := range old {
		t.close(fl, idled)
	}
}

// closeAll cuts every flow and returns their number.
func (t *udpTable) closeAll() int {
	t.evictIdleDNS(time.Now())
	var all []*udpFlow
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) { all = append(all, fl) })
	for _, fl := range all {
		t.close(fl, cut)
	}
	return len(all)
}
