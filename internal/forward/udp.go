package forward

import (
	"errors"
	"sync"
	"time"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// groAfter is the number of received datagrams from which a flow asks the kernel for runs of
// them (GRO). Most flows get a single answer, which would not repay the system call.
const groAfter = 4

// udpTable holds the flows of UDP: each is a connected socket, so that only the target can
// answer into it, and has no buffer while no bytes move.
type udpTable struct {
	*core
	ports sourcePorts

	// mu guards flows and idle. It may be locked before a flow's mu, never after it.
	mu    sync.Mutex
	flows map[flowKey]*udpFlow
	idle  idleFlows[*udpFlow] // its policy does not change
}

// newUDPTable returns a table whose flows never use the reserved source ports.
func newUDPTable(c *core, reserved []uint16) *udpTable {
	t := &udpTable{
		core: c, flows: map[flowKey]*udpFlow{}, idle: idleFlows[*udpFlow]{reuse: defaultReuse},
		ports: sourcePorts{reserved: reserved, uses: map[uint16]*portUse{}},
	}
	c.limits.evictIdle = t.evictIdle
	return t
}

// udpFlow is one UDP flow:
//
//	       first datagram            in the table
//	(none) ──────────────▶ opening ─────────────────▶ open ──────────────▶ closed
//	                          │                        ▲ │  idle, cut, revoked,
//	                          │ no socket, or another  │ │  replaced, evicted,
//	                          ▼ flow was first         │ ▼  socket taken over
//	                        (none)              a query │ │ the last answer
//	                                                    idle (DNS only)
//
// From "opening" to its end, the flow has a reservation of the limiter. The socket belongs to
// the flow: the goroutine that sets fd to -1, with mu locked, owns it from then on, ends the flow,
// and either closes the socket or passes it to another flow. So a flow ends once, and a socket is
// closed once. A flow whose fd is -1 may still be in the table for a moment; it takes no more
// datagrams.
type udpFlow struct {
	task // its step is receive
	record
	table *udpTable
	bound portUse // of a source port

	// connected is when the socket was opened, by this flow or an earlier one. It does not
	// change once the flow is in the table.
	connected time.Time

	// mu guards the fields below. It is locked while fd is in use: once fd is closed, the
	// kernel may reuse its number. No other lock is taken and nothing is waited for meanwhile.
	mu    sync.Mutex
	fd    int  // -1 until connected, and once the flow has ended
	gro   bool // the kernel returns runs of datagrams
	state udpState
}

// udpBatch gathers datagrams of one flow and size, to send them with one call.
type udpBatch struct {
	t        *udpTable
	flow     *udpFlow
	payloads [][]byte // not empty if flow is set; all but the last have one size
	bytes    int      // sum of the payloads
	relayed  bool     // by a peer router: such datagrams open no flow
}

func (t *udpTable) newBatch() batch { return &udpBatch{t: t} }

// deliver adds the datagram to the run, or flushes the run and begins another. So datagrams of one
// flow keep their order.
func (b *udpBatch) deliver(p *packet.Packet, peers PeerRouters) {
	t := b.t
	if !p.UDPChecksumOK() {
		t.drops.add(dropChecksum, 1)
		return
	}
	key := keyOf(p)
	if b.flow != nil && !b.fits(key, p.Data) {
		b.flush()
	}
	if b.flow == nil {
		fl := t.find(key)
		if fl == nil {
			if relayedAway(peers, p.Raw) {
				return
			}
			if fl = t.open(key, p); fl == nil {
				t.drops.add(dropFlowFailed, 1)
				return
			}
		}
		b.flow = fl
	}
	b.add(p.Data)
}

// deliverRelayed returns RelayedTaken also if the flow ends before the batch is flushed.
func (b *udpBatch) deliverRelayed(p *packet.Packet) Relayed {
	key := keyOf(p)
	if !p.UDPChecksumOK() || b.t.rules.check(packet.ProtoUDP, key) != allowed {
		return RelayedRefused
	}
	fl := b.t.find(key)
	if fl == nil {
		return RelayedUnknown
	}
	b.flush()
	b.flow, b.relayed = fl, true
	b.add(p.Data)
	return RelayedTaken
}

// maxRunBytes bounds the data of a run, in bytes: the kernel builds one IPv4 packet of it first.
const maxRunBytes = 65000

// fits reports whether a datagram may follow those of the batch, which is not empty, in one call.
func (b *udpBatch) fits(key flowKey, data []byte) bool {
	n, size := len(b.payloads), len(b.payloads[0])
	return b.flow.key == key && n < maxRun && len(data) <= size && len(b.payloads[n-1]) == size &&
		len(data) > 0 && b.bytes+len(data) <= maxRunBytes
}

func (b *udpBatch) add(data []byte) {
	b.payloads = append(b.payloads, data)
	b.bytes += len(data)
}

// flush sends the gathered datagrams.
func (b *udpBatch) flush() {
	if fl := b.flow; fl != nil && !fl.send(b.payloads) {
		// The flow ended after it was looked up: the client's datagrams open another.
		var next *udpFlow
		if !b.relayed {
			next = b.t.open(fl.key, nil)
		}
		if next == nil || !next.send(b.payloads) {
			b.t.drops.add(dropFlowFailed, len(b.payloads))
		}
	}
	clear(b.payloads)
	b.flow, b.payloads, b.bytes, b.relayed = nil, b.payloads[:0], 0, false
}

// find returns the flow with a key, or nil. It may end before it is used; then send returns false.
func (t *udpTable) find(key flowKey) *udpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// open opens the flow of datagram p, or answers p with the reason why it cannot, and returns
// nil. p is nil if the datagram is no longer available.
func (t *udpTable) open(key flowKey, p *packet.Packet) *udpFlow {
	refuse := func(reason packet.ICMPError) {
		if p != nil {
			t.sender.refuse(p, reason)
		} else {
			t.sender.udpError(key, reason, 0)
		}
	}
	through := t.routes.lookup(key.dst.Addr())
	to, rule, verdict := t.rules.open(packet.ProtoUDP, key)
	if verdict != allowed {
		t.account.flowFailed(UDP, through, forbidden)
		if verdict == denied {
			refuse(packet.AdminProhibited)
		}
		return nil
	}
	node, ok := t.limits.reserve(key.client.Addr())
	if !ok {
		t.account.flowFailed(UDP, through, limited)
		refuse(packet.PortUnreachable)
		return nil
	}
	target := key.target()
	fl := &udpFlow{
		protocol: UDP, key: key, target: target, to: to, peer: node, route: through, rule: rule, opened: time.Now(),
		table: t, fd: -1, state: udpState{dns: target.Port() == dnsPort},
	}
	fl.step = fl.receive
	fl.begin() // events wait until the flow is in the table
	var err error
	if !fl.state.dns || !t.takeSocket(fl) {
		err = fl.connect()
	}
	if err != nil {
		t.limits.release(node)
		reason := dialFailure(err)
		t.account.flowFailed(UDP, through, reason)
		t.logs.debug("opening UDP flow failed", "target", target, "reason", reason, "err", err)
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
		t.end(before, ended)
	}
	t.sched.done(&fl.task) // events may run it from now on
	t.account.flowOpened(UDP)
	// The check above may predate a change of the deny list or the rules whose Recheck did
	// not see the flow in the table.
	if !t.rules.permit(&fl.record) {
		t.end(fl, revoked)
		return nil
	}
	return fl
}

// abandon releases the resources of a flow that did not get into the table.
func (fl *udpFlow) abandon() {
	t, fd := fl.table, fl.detach()
	t.poll.forget(fd)
	unix.Close(fd)
	t.ports.release(&fl.bound)
	t.limits.release(fl.peer)
}

// detach takes the socket out of the flow. It returns -1 if another goroutine has taken it; else
// the caller owns the socket.
func (fl *udpFlow) detach() (fd int) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fd, fl.fd = fl.fd, -1
	return fd
}

// connect opens the flow's socket: from the client's own port if that is free; for DNS from a
// port of the kernel's choice, which is at least as random as the client's (RFC 5452 section
// 9.2).
func (fl *udpFlow) connect() error {
	t := fl.table
	to, err := t.rules.dialAddr(UDP, fl.to)
	if err != nil {
		return err
	}
	from := anyPort
	if !fl.state.dns {
		port := fl.key.client.Port()
		if ok, shared := t.ports.assign(&fl.bound, fl, port, to); ok {
			from = sourcePort{port, shared}
		}
	}
	fd, bound, err := connectFrom(unix.SOCK_DGRAM, from, to)
	if !bound {
		t.ports.release(&fl.bound)
		fl.bound = portUse{}
	}
	if err != nil {
		return err
	}
	fl.connected = fl.opened
	fl.mu.Lock()
	fl.fd = fd
	fl.mu.Unlock()
	if err := t.poll.watch(fd, onlyReadable, &fl.task); err != nil {
		unix.Close(fl.detach())
		t.ports.release(&fl.bound)
		return err
	}
	return nil
}

// sharePort lets other flows have this one's port. It does nothing while the socket is still
// being opened: then the other flow gets a port of the kernel's choice.
func (fl *udpFlow) sharePort() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.fd >= 0 {
		sharePort(fl.fd, true)
	}
}

// send sends a run to the target. It returns false if the flow has ended.
func (fl *udpFlow) send(payloads [][]byte) bool {
	fl.activity.fromClient()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.fd < 0 {
		return false
	}
	if fl.state.dns {
		for _, b := range payloads {
			fl.state.fromClient(b)
		}
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
		fl.table.sender.udpError(fl.key, packet.PortUnreachable, 0)
		err = sendRun(fl.fd, payloads)
	}
	return err
}

// sent counts the run as sent or dropped, by the result of transmit, and sends the client an ICMP error if one is due. The
// kernel takes all datagrams of a call or none.
func (fl *udpFlow) sent(payloads [][]byte, err error) {
	t := fl.table
	var reason dropReason
	switch {
	case err == nil:
		bytes := 0
		for _, b := range payloads {
			bytes += len(b)
		}
		t.account.sentUp(&fl.record, bytes, len(payloads))
		return
	case errors.Is(err, unix.EMSGSIZE):
		reason = dropTooBig
		t.sender.udpError(fl.key, packet.PacketTooBig, mtuOf(fl.fd, fl.target.Addr()))
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		reason = dropUnreachable
		t.sender.udpError(fl.key, packet.HostUnreachable, 0)
	case errors.Is(err, unix.ECONNREFUSED):
		reason = dropUnreachable
		t.sender.udpError(fl.key, packet.PortUnreachable, 0)
	case wouldBlock(err):
		reason = dropSocketBuffer
	default:
		reason = dropSendFailed
	}
	t.drops.add(reason, len(payloads))
}

// receive passes datagrams from the target to the client until the socket is empty. It is the
// task's step.
func (fl *udpFlow) receive() {
	t := fl.table
	buf := t.buffers.get()
	defer t.buffers.put(buf)
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
		n, size, foreign, err := receive(fl.fd, *buf, fl.bound.target)
		fl.mu.Unlock()
		if err != nil {
			switch {
			case wouldBlock(err):
				return
			case errors.Is(err, unix.ECONNREFUSED):
				t.sender.udpError(fl.key, packet.PortUnreachable, 0)
			case errors.Is(err, unix.EHOSTUNREACH):
				t.sender.udpError(fl.key, packet.HostUnreachable, 0)
			}
			continue
		}
		if foreign {
			t.drops.add(dropUnmatched, (n+max(size, 1)-1)/max(size, 1))
			continue
		}
		fl.activity.fromTarget()
		count, answered := 0, false
		for b := (*buf)[:n]; ; {
			datagram := b[:min(size, len(b))]
			wanted, last := fl.matchAnswer(datagram)
			answered = answered || last
			if !wanted {
				t.drops.add(dropUnmatched, 1)
			} else if !t.sender.udp(fl.key.dst, fl.key.client, datagram) {
				return
			}
			count++
			if b = b[len(datagram):]; len(b) == 0 {
				break
			}
		}
		t.account.sentDown(&fl.record, n, count)
		if answered {
			fl.keepIdle()
			return // nothing is pending; later datagrams are read with the next answer
		}
	}
	t.sched.ready(&fl.task) // there may be more: queue behind the other tasks
}

// matchAnswer is [udpState.fromTarget]. Only DNS flows need the lock.
func (fl *udpFlow) matchAnswer(datagram []byte) (pass, answered bool) {
	if !fl.state.dns {
		return true, false
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.state.fromTarget(datagram)
}

// keepIdle keeps an answered DNS flow open as an idle one, evicting the oldest of them if there
// are too many. If sockets are not reused, it evicts the flow itself.
func (fl *udpFlow) keepIdle() {
	t := fl.table
	fl.mu.Lock()
	entry := idleFlow[*udpFlow]{fl, fl.state.queries}
	fl.mu.Unlock()
	t.mu.Lock()
	entry = t.idle.add(entry)
	t.mu.Unlock()
	t.evict(entry)
}

// detachIdle takes the socket out of an idle flow, so that no query can use it before the flow
// ends. It returns -1 if the flow has a new query or has ended.
func detachIdle(e idleFlow[*udpFlow]) (fd int) {
	fl := e.flow
	if fl == nil {
		return -1
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if !fl.state.answeredAt(e.queries) {
		return -1
	}
	fd, fl.fd = fl.fd, -1
	return fd
}

// evict ends an idle DNS flow, unless it has a new query, and reports whether it did.
func (t *udpTable) evict(e idleFlow[*udpFlow]) bool {
	fd := detachIdle(e)
	t.finish(e.flow, fd, ended)
	return fd >= 0
}

// takeSocket gives fl, which is being opened, the socket of an idle DNS flow that the policy
// permits, and ends that flow.
func (t *udpTable) takeSocket(fl *udpFlow) bool {
	fd, old := -1, (*udpFlow)(nil)
	t.mu.Lock()
	for i := range maxIdleDNS {
		e := t.idle.newest(i)
		if old = e.flow; old == nil || old.to != fl.to || !t.idle.reuse.mayTake(fl.opened, old.connected, fl.key, old.key) {
			continue
		}
		fd = detachIdle(*e)
		*e = idleFlow[*udpFlow]{}
		if fd >= 0 {
			break
		}
	}
	t.mu.Unlock()
	if fd < 0 {
		return false
	}
	// No other goroutine has seen fl yet, and old no longer uses its socket.
	fl.fd, fl.connected, fl.gro, fl.state.reused = fd, old.connected, old.gro, true
	t.poll.reassign(fd, &fl.task)
	t.remove(old, ended)
	return true
}

// evictIdle ends the DNS flows that have been idle since before a time; it reports whether
// there were any.
func (t *udpTable) evictIdle(since time.Time) (found bool) {
	t.mu.Lock()
	all := t.idle.ring
	t.mu.Unlock()
	for _, e := range all {
		if e.flow != nil && e.flow.activity.at() <= instant(since) && t.evict(e) {
			found = true
		}
	}
	return found
}

// end ends a flow. Ending it again has no effect.
func (t *udpTable) end(fl *udpFlow, reason string) { t.finish(fl, fl.detach(), reason) }

// finish closes a socket that the caller took out of the flow, and ends the flow. With fd < 0
// another goroutine took the socket, and finish does nothing.
func (t *udpTable) finish(fl *udpFlow, fd int, reason string) {
	if fd < 0 {
		return
	}
	t.poll.forget(fd)
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
	t.ports.release(&fl.bound)
	t.limits.release(fl.peer)
	t.account.flowEnded(&fl.record, reason)
}

// sweep ends the flows that were idle for too long.
func (t *udpTable) sweep(now time.Time) {
	t.evictIdle(now.Add(-t.idle.reuse.idle))
	var old []*udpFlow
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) {
		if instant(now)-fl.activity.at() > int64(fl.state.timeout()) {
			old = append(old, fl)
		}
	})
	for _, fl := range old {
		t.end(fl, idled)
	}
}

// cut ends every flow and returns their number, without those that were idle anyway.
func (t *udpTable) cut() int {
	t.evictIdle(time.Now())
	var all []*udpFlow
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) { all = append(all, fl) })
	for _, fl := range all {
		t.end(fl, cut)
	}
	return len(all)
}

func (t *udpTable) active() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

func (t *udpTable) walk(visit func(flow)) {
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) { visit(fl) })
}

// ending returns 0: cut ends its flows itself.
func (t *udpTable) ending() int { return 0 }

// close does nothing: all state belongs to flows.
func (t *udpTable) close() {}

// A flow is in the table from when it is open.
func (fl *udpFlow) open() bool              { return true }
func (fl *udpFlow) busy(now time.Time) bool { return fl.activity.busy(now) }
func (fl *udpFlow) revoke()                 { fl.table.end(fl, revoked) }
