package forward

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A flow of DNS is over when each query has its answer. A forwarding resolver may take
// longer than a client's first timeout, and clients listen on while they ask again: 30 s
// is tailscaled's patience. Other flows follow RFC 4787 section 4.3: they live for two
// minutes at least.
const (
	dnsPort        = 53
	dnsIdleTimeout = 30 * time.Second
	udpIdleTimeout = 2 * time.Minute
)

// A client that was answered soon asks again, and to open a socket costs more than to
// ask. So the flows that were answered last rest for a moment before they end: a few,
// whatever the rate, and none where others need the place. Until then the client may go
// on, or ask from another port, as resolvers do; see [udpTable.adopt].
const (
	maxIdleDNS  = 128
	idleDNSWait = time.Second
)

// A flow with more datagrams than this may be one of many: the kernel is asked to hand
// over runs of them. Most flows have one answer, for which that would be a call too many.
const groAfter = 4

// receiveBudget is how many receives a flow may make before others get a turn.
const receiveBudget = 32

// udpTable holds the flows of UDP: a connected socket each, so that only the
// target can answer into it, and no buffer while nothing moves.
type udpTable struct {
	f     *Forwarder
	ports sourcePorts

	mu       sync.Mutex
	flows    map[flowKey]*udpFlow
	idle     [maxIdleDNS]idleDNS // a ring
	nextIdle int                 // where the next goes
}

// resting is a flow of DNS without an open query, as long as it had as many.
type idleDNS struct {
	flow    *udpFlow
	queries int
}

// flowKey is a flow as its client sees it: 4via6 not undone.
type flowKey struct{ client, dst netip.AddrPort }

type udpFlow struct {
	task
	record
	table     *udpTable
	dns       bool
	connected time.Time
	gro       bool // the kernel hands over runs of datagrams

	// strict is the target as dialed if the flow has its client's source port, and older
	// is another flow that has it. They are set before the flow is in the table, and then
	// guarded by sourcePorts.mu.
	boundTarget netip.AddrPort
	older       *udpFlow

	mu      sync.Mutex // held while fd is in use: closed, its number may be another's
	fd      int        // -1 once closed
	pending []uint16   // queries without an answer, for DNS, by their IDs
	queries int        // queries ever
	reused  bool       // the socket was another flow's before
}

// mostOpen bounds what is remembered of queries. A flow that has more under way is one of a
// resolver for many, and ends by its idle timeout.
const maxPendingQueries = 64

// queryID is what an answer repeats of its query (RFC 1035 section 4.1.1).
func queryID(datagram []byte) uint16 {
	if len(datagram) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(datagram)
}

// udpRun gathers datagrams of one flow and size, to be sent by one call.
type udpRun struct {
	flow     *udpFlow
	payloads [][]byte
	bytes    int
	relayed  bool // by another router: opens no flow
}

// maxRunBytes is what a run may come to: an IPv4 packet's length is 16 bit.
const maxRunBytes = 65000

// deliver takes a datagram from a peer, unless it is of a flow elsewhere; it may stay in
// the run until the next call or [udpTable.flush].
func (t *udpTable) deliver(d *delivery) (took bool) {
	p, run := &d.packet, &d.udp
	if !p.checksumOK() {
		t.f.drops.add(dropChecksum, 1)
		return true
	}
	key := flowKey{netip.AddrPortFrom(p.src, p.srcPort), netip.AddrPortFrom(p.dst, p.dstPort)}
	if fl := run.flow; fl != nil && (fl.key != key || len(run.payloads) == maxRun ||
		len(p.payload) > len(run.payloads[0]) || len(run.payloads[len(run.payloads)-1]) < len(run.payloads[0]) ||
		len(p.payload) == 0 || run.bytes+len(p.payload) > maxRunBytes) {
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
	run.payloads = append(run.payloads, p.payload)
	run.bytes += len(p.payload)
	return true
}

func (t *udpTable) flush(run *udpRun) {
	if fl := run.flow; fl != nil && !fl.send(run.payloads) {
		// It ended since it was found: the client's datagrams open another.
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

// open makes the flow that p is the first datagram of, or tells its sender why not;
// nil is a datagram that is no longer at hand.
func (t *udpTable) open(key flowKey, p *inbound) *udpFlow {
	f := t.f
	target := netip.AddrPortFrom(targetOf(key.dst.Addr()), key.dst.Port())
	refuse := func(why icmpError) {
		if p != nil {
			f.refuse(p, why)
		} else {
			f.sendUDPError(key, why, 0)
		}
	}
	to := f.routes.lookup(key.dst.Addr())
	if verdict := f.check(protoUDP, key); verdict != allowed {
		f.failed("udp", to, forbidden)
		if verdict == denied {
			refuse(adminProhibited)
		}
		return nil
	}
	node, ok := f.reserve(key.client.Addr())
	if !ok {
		f.failed("udp", to, limited)
		refuse(portUnreachable)
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
	// Datagrams of one flow may come on several goroutines at once, as when a peer router
	// returns them: the first to get here is the flow. One of another peer that has the
	// same address for a moment is replaced.
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
	f.sched.done(&fl.task) // from now on it may run
	f.metrics.opened["udp"].Inc()
	f.metrics.active["udp"].Inc()
	// A change of the deny list or the rules since the check above did not find the flow.
	if f.check(protoUDP, key) != allowed {
		t.close(fl, revoked)
		return nil
	}
	return fl
}

// abandon gives back what a flow has that did not get into the table.
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

// connect opens the flow's socket: from the client's own port where that is free, but for
// DNS, where a port of the kernel's choice is as random as the client's was, or more (RFC
// 5452 section 9.2).
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

// send sends a run to the target. It reports false if the flow has ended.
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
		// A device without segmentation, or a smaller path: one by one.
		for i := range payloads {
			one := payloads[i : i+1]
			fl.sent(one, fl.transmit(one))
		}
		return true
	}
	fl.sent(payloads, err)
	return true
}

// transmit makes one call of the kernel, or two if the first returns the error of an
// earlier datagram: the client learns of that, and the target may have come up.
func (fl *udpFlow) transmit(payloads [][]byte) error {
	err := sendRun(fl.fd, payloads)
	if errors.Is(err, unix.ECONNREFUSED) {
		fl.table.f.sendUDPError(fl.key, portUnreachable, 0)
		err = sendRun(fl.fd, payloads)
	}
	return err
}

// sent counts what transmit sent or did not, and answers the client where it is due. The
// kernel takes all datagrams of a call or none.
func (fl *udpFlow) sent(payloads [][]byte, err error) {
	f := fl.table.f
	var why dropReason
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
		why = dropTooBig
		f.sendUDPError(fl.key, packetTooBig, mtuOf(fl.fd, fl.target.Addr()))
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		why = dropUnreachable
		f.sendUDPError(fl.key, hostUnreachable, 0)
	case errors.Is(err, unix.ECONNREFUSED):
		why = dropUnreachable
		f.sendUDPError(fl.key, portUnreachable, 0)
	case wouldBlock(err):
		why = dropSocketBuffer
	default:
		why = dropSendFailed
	}
	f.drops.add(why, len(payloads))
}

// receive brings answers to the client until there is none. It is the task's step.
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
				f.sendUDPError(fl.key, portUnreachable, 0)
			case errors.Is(err, unix.EHOSTUNREACH):
				f.sendUDPError(fl.key, hostUnreachable, 0)
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
			return // nothing is asked; what may yet come is read with the next answer
		}
	}
	f.sched.ready(&fl.task) // more may be there: behind the others
}

// answers takes note of what the target sent, and reports whether it is for this flow's
// client, and whether it is the last answer that was open. An heir's socket may bring what
// another port of the client asked for.
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

// rest leaves a flow of DNS that was answered open for a while.
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

// take takes the socket away from a flow that rests, so that no query can slip in before
// its end; -1 if it was asked again, or has ended.
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

// endRest ends a flow that rests, unless it was asked again.
func (t *udpTable) evict(r idleDNS) bool {
	fd := r.takeSocket()
	t.finish(r.flow, fd, ended)
	return fd >= 0
}

// adopt ends a flow between the same two hosts that rests, and gives its socket to fl. A
// socket so serves for dnsRest at most: a port that stays could be found out, and answers
// be forged (RFC 5452 section 9.2).
func (t *udpTable) reuseSocket(fl *udpFlow) bool {
	fd, old := -1, (*udpFlow)(nil)
	t.mu.Lock()
	for i := range t.idle {
		r := &t.idle[(t.nextIdle+maxIdleDNS-1-i)%maxIdleDNS] // the last first
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

// endRests ends the flows that rest since before a time, and reports whether there
// were any.
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

// close ends a flow; the second time does nothing.
func (t *udpTable) close(fl *udpFlow, why string) {
	fl.mu.Lock()
	fd := fl.fd
	fl.fd = -1
	fl.mu.Unlock()
	t.finish(fl, fd, why)
}

// finish ends a flow whose socket the caller took; with none another did.
func (t *udpTable) finish(fl *udpFlow, fd int, why string) {
	if fd < 0 {
		return
	}
	t.f.poll.forget(fd)
	unix.Close(fd)
	t.remove(fl, why)
}

// remove accounts for a flow that has no socket any more.
func (t *udpTable) remove(fl *udpFlow, why string) {
	t.mu.Lock()
	if t.flows[fl.key] == fl {
		delete(t.flows, fl.key)
	}
	t.mu.Unlock()
	t.ports.release(fl)
	t.f.release(fl.peer)
	t.f.finished("udp", &fl.record, why)
}

// idleTimeout is after how much silence a flow ends.
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

// closeAll ends every flow and counts them.
func (t *udpTable) closeAll() int {
	t.evictIdleDNS(time.Now())
	var all []*udpFlow
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) { all = append(all, fl) })
	for _, fl := range all {
		t.close(fl, cut)
	}
	return len(all)
}
