package forward

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/tcp"
	"subnetrouter/internal/tcp/congestion"

	"golang.org/x/sys/unix"
)

// streamTable holds the flows of TCP.
type streamTable struct {
	*core
	congestion Congestion
	silence    silenceCheck
	giveUp     time.Duration // after which a client that acknowledges nothing, with data due, has gone

	// mu guards flows. A flow is among them from its SYN until its release. mu is held for one
	// look-up by packet delivery, and for steps of walks.
	mu    sync.Mutex
	flows map[flowKey]*streamFlow
}

func newStreamTable(c *core, control Congestion) *streamTable {
	return &streamTable{
		core: c, congestion: control, silence: newSilenceCheck(c.targetKeepAlive), giveUp: 15 * time.Minute,
		flows: map[flowKey]*streamFlow{},
	}
}

// streamFlow is one TCP flow: a connection of package tcp towards the client, and a socket towards
// the target. Bytes go from the socket straight into the connection's memory and back. Its stages
// follow one another:
//
//	  SYN        socket opened          connected            handshake complete
//	──────▶ new ──────────────▶ dialing ─────────▶ accepting ───────────────────▶ forwarding
//	         │                     │                   │                              │
//	         │ no socket           │ refused, timed    │ reset, no answer until the   │ the connection is
//	         │                     │ out, aborted      │ dial timeout, aborted        │ over
//	         ▼                     ▼                   ▼                              ▼
//	         └─────────────────▶ closed ◀──────────────┴──────────────────────────────┘
//
//	new          the client's SYN has no answer yet, and a worker is to open the socket.
//	dialing      the target's socket is connecting; the SYN still has no answer. A target that
//	             refuses resets the client's connection, and one that is silent or unreachable
//	             gets it an ICMP error, at once.
//	accepting    the SYN is answered.
//	forwarding   bytes move. If both sides have closed, the end is a normal one; any other end
//	             is a reset to both. The flow lasts until the client has acknowledged the end.
//	closed       the flow has no socket and no reservation, and is in no table.
//
// The task owns the socket and the stage: a worker runs its step. mu guards the connection, which
// packet delivery, the link's reader, the timer and the task use in turn. While one holds it, it
// calls only the connection, non-blocking system calls, the scheduler and the link. What it leaves
// for another to do is decided in one place, [streamFlow.settle].
type streamFlow struct {
	task
	record
	turn
	table     *streamTable
	fd        int          // the target's socket; -1 before it is opened
	stage     atomic.Int32 // stageNew and so on
	abort     atomic.Bool  // abort at the next step
	revoked   atomic.Bool  // aborted because the flow is no longer allowed
	probe     atomic.Bool  // check at the next step whether the target has fallen silent
	advanced  atomic.Int64 // the client's last advance while it has yet to acknowledge bytes, or the end: an instant; else 0
	delivered atomic.Int64 // the bytes sent to the target when it had last acknowledged all

	mu      sync.Mutex // guards the fields below
	conn    *tcp.Conn
	alarm   alarm         // runs wake
	acked   int64         // what the client had acknowledged at that advance
	held    int64         // the flow's part of the budget for buffers, in bytes
	kernel  int64         // the bytes that waited in the target's socket at the last move
	bound   int           // that the kernel's buffers follow, in bytes; 0 before the first move
	bounded bool          // the kernel no longer tunes the receive buffer
	syn     []byte        // the client's first packet, until it is answered
	nextSYN pendingSYN    // opens the next flow with the same addresses when this one is over
	reason  string        // of the end, once the router has begun it
	endedAt time.Duration // when the client's connection was over; 0 before
	sawEOF  bool          // the target has closed its side
	shut    bool          // the client's end was passed on to the target
	failing bool          // a write to the target failed; its last answer may still be read
	broken  bool          // the target's connection ended with an error, and the client has yet to get the rest
	starved bool          // the last read from the target stopped for want of room in conn
	blocked bool          // the target's socket is full
}

// The stages of a TCP flow.
const (
	stageNew int32 = iota
	stageDialing
	stageAccepting
	stageForwarding
	stageClosed
)

// pendingSYN is a packet, and when it arrived; zero for none.
type pendingSYN struct {
	raw []byte
	at  time.Duration
}

// maxSYN bounds the size of a SYN that is kept, in bytes. Its payload, if any, would be dropped.
const maxSYN = ownPacketSize

// maxSYNWait is the time after which a client has repeated its SYN. An older one may be a stray.
const maxSYNWait = 3 * time.Second

// streamNow returns the time for connections.
func streamNow() time.Duration { return time.Duration(instant(time.Now())) }

// alarm is the timer of a connection, whose lock guards it. Zero is unused.
type alarm struct {
	timer *time.Timer
	at    time.Duration // when it runs its function, which resets this; 0: not set
}

// set makes wake run at a time, unless it runs earlier. Every call passes the same function.
func (a *alarm) set(now, at time.Duration, wake func()) {
	if a.at != 0 && at >= a.at {
		return
	}
	a.at = at
	if a.timer == nil {
		a.timer = time.AfterFunc(at-now, wake)
	} else {
		a.timer.Reset(at - now)
	}
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// open creates the flow for a SYN, which packet delivery holds. It does not wait: a worker opens
// the socket.
func (t *streamTable) open(p *packet.Packet, s *tcp.Segment, key flowKey) {
	if len(p.Raw) > maxSYN {
		t.drops.add(dropMalformed, 1)
		return
	}
	refuse := func() { t.sender.reset(p, p.Payload()) }
	to, rule, verdict := t.rules.open(packet.ProtoTCP, key)
	if verdict != allowed {
		t.account.flowFailed(TCP, t.routes.lookup(key.dst.Addr()), forbidden)
		if verdict == noRule {
			t.drops.add(dropFlowFailed, 1)
			return
		}
		refuse()
		return
	}
	node, ok := t.limits.reserve(key.client.Addr())
	if !ok {
		t.account.flowFailed(TCP, t.routes.lookup(key.dst.Addr()), limited)
		refuse()
		return
	}
	fl := &streamFlow{
		protocol: TCP, key: key, target: key.target(), to: to, peer: node,
		route: t.routes.lookup(key.dst.Addr()), rule: rule, opened: time.Now(),
		table: t, fd: -1, syn: append([]byte(nil), p.Raw...),
	}
	fl.stage.Store(stageNew)
	fl.step, fl.of = fl.advance, fl
	var random [16]byte
	rand.Read(random[:])
	share := int(t.memory.shareOf(node.held.Load()))
	fl.conn = tcp.Accept(streamNow(), tcp.Options{
		MSS:             t.sender.mtu - packet.HeaderSize(key.dst.Addr()) - packet.TCPHeader,
		ISS:             binary.BigEndian.Uint32(random[:]),
		TimestampOffset: binary.BigEndian.Uint32(random[4:]),
		Congestion:      t.congestion.maker(binary.BigEndian.Uint64(random[8:])),
		Keepalive:       tcp.Keepalive{Idle: t.clientKeepAlive(key.dst.Port()), Interval: keepAliveInterval, Count: keepAliveCount},
		Handshake:       t.dialTimeout,
		GiveUp:          t.giveUp,
		SendLimit:       share, ReceiveLimit: share,
	}, s)
	t.mu.Lock()
	if t.flows[key] != nil { // another delivery was first; the client repeats its SYN
		t.mu.Unlock()
		t.limits.release(node)
		return
	}
	t.flows[key] = fl
	t.mu.Unlock()
	t.sched.ready(&fl.task)
}

// maker returns what creates a connection's congestion control.
func (c Congestion) maker(seed uint64) func(mss int) congestion.Controller {
	if c == CUBIC {
		return congestion.NewCUBIC
	}
	return func(mss int) congestion.Controller { return congestion.NewBBR(mss, seed) }
}

// advance is the task's step.
func (fl *streamFlow) advance() {
	switch fl.stage.Load() {
	case stageNew:
		fl.dialTarget()
	case stageDialing:
		fl.dialed()
	case stageAccepting, stageForwarding:
		fl.forward()
	}
}

// dialTarget opens the target's socket. It leads from new to dialing, or to closed.
func (fl *streamFlow) dialTarget() {
	t := fl.table
	fl.stage.Store(stageDialing)
	to, err := t.rules.dialAddr(TCP, fl.to)
	if err == nil {
		if share := int(t.memory.shareOf(fl.peer.held.Load())); share <= scarce {
			fl.bounded = true
			fl.fd, err = connectBounded(to, leastReceive)
		} else {
			fl.fd, err = connect(unix.SOCK_STREAM, to)
		}
	}
	if err == nil {
		keepAlive(fl.fd, t.targetKeepAlive)
		keepUrgent(fl.fd)
		// The check in open may predate a change of the deny list or the rules whose
		// Recheck did not see the flow in the table.
		if !t.rules.permit(&fl.record) {
			fl.revoke()
		}
		err = t.poll.watch(fl.fd, alsoWritable, &fl.task)
	}
	if err != nil {
		fl.refuse(err)
	}
}

// dialed checks the progress of the dial. An event may come before the result, and the sweep
// makes the task ready when the time is over.
func (fl *streamFlow) dialed() {
	t := fl.table
	err := socketError(fl.fd)
	if err == nil && !connected(fl.fd) {
		if waited := time.Since(fl.opened); waited < t.dialTimeout && !fl.abort.Load() {
			return
		}
		err = unix.ETIMEDOUT
	}
	if err == nil {
		err = fl.sendPreface()
	}
	if err != nil {
		fl.refuse(err)
		return
	}
	fl.dial = time.Since(fl.opened)
	t.account.dialed(fl.dial)
	fl.stage.Store(stageAccepting)
	fl.mu.Lock()
	fl.syn = nil
	now := streamNow()
	fl.conn.Answer(now)
	fl.settle(now)
	fl.mu.Unlock()
	fl.forward()
}

var errNoPreface = errors.New("the front of a served port cannot be told the target")

// sendPreface sends the bytes that precede those of the client. The socket has just connected, and its empty
// buffer takes them at once.
func (fl *streamFlow) sendPreface() error {
	front := fl.to.front.IsValid()
	preface := fl.table.preface(fl.key.client, fl.key.dst, fl.to.addr, front)
	switch {
	case len(preface) > 0:
	case front:
		return errNoPreface
	default:
		return nil
	}
	n, err := unix.Write(fl.fd, preface)
	if err == nil && n < len(preface) {
		err = unix.ENOBUFS
	}
	return err
}

// refuse answers a client whose target cannot be reached: with a reset, as the target's own host
// would, or an ICMP error if no host answered. It leads to closed.
func (fl *streamFlow) refuse(err error) {
	t := fl.table
	reason := dialFailure(err)
	t.account.dialed(time.Since(fl.opened))
	t.account.flowFailed(TCP, fl.route, reason)
	t.logs.debug("dialing target failed", "protocol", "tcp", "target", fl.target, "reason", reason, "err", err)
	fl.mu.Lock()
	syn := fl.syn
	fl.mu.Unlock()
	if (reason == timedOut || reason == unreachable) && !fl.abort.Load() {
		t.sender.icmpError(syn, packet.HostUnreachable, 0)
	} else if p := new(packet.Packet); p.Parse(syn) {
		t.sender.reset(p, p.Payload())
	}
	fl.release()
}

// forward moves bytes until neither direction can, the flow has ended, or the other flows are to
// get a turn. Events are edge-triggered: it must not return while a direction could move bytes,
// unless it makes the task ready again.
func (fl *streamFlow) forward() {
	t := fl.table
	fl.mu.Lock()
	now := streamNow()
	if fl.abort.Load() && fl.reason == "" {
		fl.fail(now, cut)
		if fl.revoked.Load() {
			fl.reason = revoked
		}
	}
	if fl.stage.Load() == stageAccepting && fl.conn.Established() {
		fl.stage.Store(stageForwarding)
		fl.activity.fromClient() // clients usually send first
		t.account.flowOpened(TCP)
	}
	more := false
	if fl.stage.Load() == stageForwarding && fl.reason == "" {
		more = fl.move(now)
	}
	if fl.probe.Swap(false) && fl.reason == "" && targetSilent(&fl.record, fl.fd, &fl.delivered, t.silence.limit) {
		fl.fail(now, failed)
	}
	over := fl.over()
	fl.settle(now)
	fl.mu.Unlock()
	switch {
	case over:
		fl.finish()
	case more:
		t.sched.ready(&fl.task)
	}
}

// over reports whether the connection has ended and has sent its last segment. In TIME-WAIT it would
// only keep the client from the same addresses and ports for a while. After an orderly end, what the
// client sent may still wait for the target. It needs mu.
func (fl *streamFlow) over() bool {
	c := fl.conn
	if !c.Replaceable() || c.Pending() {
		return false
	}
	return c.Err() != nil || fl.reason != "" || fl.shut || fl.stage.Load() != stageForwarding
}

// fail resets the client's connection; reason is that of the flow's end. It needs mu.
func (fl *streamFlow) fail(now time.Duration, reason string) {
	if fl.reason == "" {
		fl.reason = reason
	}
	fl.conn.Abort(now)
}

// finish ends a flow whose connection is over. It leads to closed.
func (fl *streamFlow) finish() {
	t := fl.table
	opened := fl.stage.Load() == stageForwarding
	reason := fl.reason
	switch {
	case reason != "":
	case fl.conn.Err() != nil || fl.failing || !fl.sawEOF || !fl.shut:
		reason = failed
	default:
		reason = ended
	}
	if reason != ended {
		resetOnClose(fl.fd)
	}
	if opened {
		t.account.flowEnded(&fl.record, reason)
	} else {
		t.account.flowFailed(TCP, fl.route, other)
	}
	fl.release()
}

// release closes the target's socket, frees the connection's memory, removes the flow from the
// table and ends its reservation. The task calls it once, as the last step of the flow. The
// socket's number may be another flow's afterwards: the poller forgets it first.
func (fl *streamFlow) release() {
	t := fl.table
	fl.stage.Store(stageClosed)
	if fl.fd >= 0 {
		t.poll.forget(fl.fd)
		unix.Close(fl.fd)
	}
	fl.mu.Lock()
	fl.conn.Release()
	fl.kernel = 0
	fl.hold(0)
	fl.alarm.stop()
	next := fl.nextSYN
	fl.nextSYN, fl.syn = pendingSYN{}, nil
	fl.mu.Unlock()
	t.mu.Lock()
	delete(t.flows, fl.key)
	t.mu.Unlock()
	t.limits.release(fl.peer)
	if next.raw != nil && streamNow()-next.at < maxSYNWait {
		t.reopen(next.raw, fl.key)
	}
}

// reopen opens a flow for a SYN that arrived while the one before it ended.
func (t *streamTable) reopen(raw []byte, key flowKey) {
	var p packet.Packet
	if !p.Parse(raw) {
		return
	}
	if s, err := tcp.Parse(p.Payload()); err == nil {
		t.open(&p, &s, key)
	}
}

// settle follows every use of the connection: it decides who has to go on with the flow. It needs
// mu.
func (fl *streamFlow) settle(now time.Duration) {
	t, c := fl.table, fl.conn
	if c.Pending() {
		t.link.want(&fl.turn)
	}
	switch since, acked := fl.advanced.Load(), c.Acknowledged(); {
	case !c.Unacked():
		if since != 0 {
			fl.advanced.Store(0)
		}
	case since == 0 || acked != fl.acked:
		fl.acked = acked
		fl.advanced.Store(int64(now))
	}
	fl.schedule(now)
}

// schedule makes the task ready and sets the timer, as the connection's state asks. It needs mu.
func (fl *streamFlow) schedule(now time.Duration) {
	t, c := fl.table, fl.conn
	stage := fl.stage.Load()
	switch {
	case stage != stageAccepting && stage != stageForwarding:
	case fl.over(),
		stage == stageAccepting && c.Established(),
		stage == stageForwarding && !fl.blocked && fl.reason == "" && (c.Available() > 0 || fl.mayShut()),
		fl.starved && c.Room() > 0,
		fl.broken && !c.Unacked():
		t.sched.ready(&fl.task)
	}
	send, receive := c.Buffered()
	fl.hold(int64(send+receive) + fl.kernel)
	at, ok := c.Deadline()
	if stage == stageForwarding && c.Replaceable() && !fl.over() {
		// No timer of the connection ends a flow whose target takes no data.
		if fl.endedAt == 0 {
			fl.endedAt = now
		}
		at, ok = fl.endedAt+t.giveUp, true
	}
	if ok {
		fl.alarm.set(now, at, fl.wake)
	}
}

// wake is the timer's function.
func (fl *streamFlow) wake() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.alarm.at = 0
	now := streamNow()
	fl.conn.Wake(now)
	if fl.endedAt != 0 && now >= fl.endedAt+fl.table.giveUp && fl.reason == "" {
		fl.reason = failed
	}
	fl.settle(now)
}

// hold sets the flow's part of the budget, in bytes. It needs mu.
func (fl *streamFlow) hold(n int64) {
	if n != fl.held {
		fl.table.memory.used.Add(n - fl.held)
		fl.peer.held.Add(n - fl.held)
		fl.held = n
	}
}

// sweep makes the flows ready whose time to connect is over, and starts the checks for silent
// targets.
func (t *streamTable) sweep(now time.Time) {
	probe := t.silence.due(now)
	each(&t.mu, t.flows, func(_ flowKey, fl *streamFlow) {
		switch stage := fl.stage.Load(); {
		case stage == stageDialing && now.Sub(fl.opened) >= t.dialTimeout:
			t.sched.ready(&fl.task)
		case probe && stage == stageForwarding && fl.up.bytes.Load() != fl.delivered.Load():
			fl.probe.Store(true)
			t.sched.ready(&fl.task)
		}
	})
}

// cut marks every flow for a worker to abort, and returns the number of those past dialing.
func (t *streamTable) cut() (open int) {
	each(&t.mu, t.flows, func(_ flowKey, fl *streamFlow) {
		if fl.past() {
			open++
		}
		fl.abort.Store(true)
		t.sched.ready(&fl.task)
	})
	return open
}

// ending returns the number of flows that are still to be aborted.
func (t *streamTable) ending() (n int) {
	each(&t.mu, t.flows, func(_ flowKey, fl *streamFlow) {
		if fl.abort.Load() {
			n++
		}
	})
	return n
}

// active returns the number of flows past dialing.
func (t *streamTable) active() (n int) {
	each(&t.mu, t.flows, func(_ flowKey, fl *streamFlow) {
		if fl.past() {
			n++
		}
	})
	return n
}

// past reports whether the target has accepted.
func (fl *streamFlow) past() bool {
	stage := fl.stage.Load()
	return stage == stageAccepting || stage == stageForwarding
}

func (t *streamTable) walk(visit func(flow)) {
	each(&t.mu, t.flows, func(_ flowKey, fl *streamFlow) { visit(fl) })
}

// close does nothing: each flow ends by cut.
func (t *streamTable) close() {}

func (fl *streamFlow) open() bool { return fl.stage.Load() == stageForwarding }

// busy implements [flow]. What a slow client has yet to receive is in this process alone: the target
// may have sent its whole answer, and ended.
func (fl *streamFlow) busy(now time.Time) bool {
	if !fl.open() || fl.activity.busy(now) {
		return true
	}
	since := fl.advanced.Load()
	return since != 0 && instant(now)-since < int64(busyAfterAdvance)
}

// revoke marks the flow for a worker to abort.
func (fl *streamFlow) revoke() {
	fl.revoked.Store(true)
	fl.abort.Store(true)
	fl.table.sched.ready(&fl.task)
}

// find returns the flow with a key, or nil.
func (t *streamTable) find(key flowKey) *streamFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// segmentKey returns the flow of a segment that [packet.Packet.Segment] returned.
func segmentKey(p *packet.Packet, segment []byte) flowKey {
	src, dst := packet.SegmentPorts(segment)
	return flowKey{netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst)}
}
