package simnet

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"time"
)

// Result is the outcome of a run.
type Result struct {
	Failure *Failure // nil if all checks passed
	// Hash covers every packet with its time and fate, and every byte that an application
	// wrote and read: equal runs have equal hashes.
	Hash    uint64
	Packets int           // sent by the endpoints
	Lost    int           // of these, by the network
	Bytes   int64         // read by the applications
	Resets  int           // ends that saw their connection reset
	Ignored int           // failures that the scenario ignores
	Peak    int           // the most bytes that one endpoint buffered
	Seen    Seen          // the situations that have occurred
	Virtual time.Duration // of the run
}

// Seen counts situations by name: fates of packets, and those that a script leads to.
type Seen map[string]int

// Situations besides the fates of packets.
const (
	SeenZeroWindow = "closed window"
	SeenCrossedFIN = "FINs that crossed"
	SeenCrossedSYN = "SYNs that crossed"
	SeenHalfClose  = "read after the own end of stream"
	SeenAbort      = "abort"
	SeenPathChange = "change of path"
	SeenIdle       = "idle for a minute"
)

// Failure is the first violation in a run.
type Failure struct {
	Check   string // one of the constants below
	Conn    int    // the index of the connection
	At      time.Duration
	Message string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s: connection %d at %v: %s", f.Check, f.Conn, f.At, f.Message)
}

// The checks.
const (
	CheckBytes  = "bytes"  // every byte once and in order, or a reset with a cause
	CheckStuck  = "stuck"  // progress within a bound
	CheckMemory = "memory" // within the budget, and released at the end
	CheckWire   = "wire"   // packets that are consistent
)

const (
	// maxEvents bounds a run, for subjects that send packets without end.
	maxEvents = 20_000_000
	// maxVirtual bounds it in virtual time, for connections that neither fail nor end.
	maxVirtual = 1000 * time.Hour
	// maxAtOnce bounds the calls of one endpoint at one instant.
	maxAtOnce = 100_000
)

// Run simulates a scenario until every connection has ended, or to the first failure.
func (s Scenario) Run() Result {
	r, _ := s.run(-1)
	return r
}

// Trace is Run, and returns the events of a connection on one line each.
func (s Scenario) Trace(conn int) (Result, []string) { return s.run(conn) }

func (s Scenario) run(traced int) (Result, []string) {
	s.defaults()
	r := &run{Scenario: s, traced: traced}
	r.result.Seen = Seen{}
	for i := range r.links {
		r.links[i].rng = rand.New(rand.NewPCG(s.Seed, uint64(0x11+i)))
		if len(s.Paths[i]) > 0 {
			r.links[i].path = s.Paths[i][0].Path
		}
		for _, c := range s.Paths[i] {
			if c.At > 0 && c.At < s.Heal {
				r.push(event{at: c.At, kind: changePath, side: i, path: &c.Path})
			}
		}
		r.push(event{at: s.Heal, kind: healPath, side: i})
	}
	for i, script := range s.Conns {
		r.open(i, script)
	}
	for r.queue.len() > 0 && r.failure == nil {
		e := r.queue.pop()
		if e.at > r.now {
			r.now = e.at
		}
		if r.events++; r.events > maxEvents || r.now > maxVirtual {
			r.fail(r.unfinished(), CheckStuck, "the run does not end after %d events", r.events)
			break
		}
		r.handle(&e)
	}
	for _, c := range r.conns {
		for _, e := range c.ends {
			r.stop(e)
		}
	}
	r.result.Failure, r.result.Hash, r.result.Virtual = r.failure, r.hash, r.now
	return r.result, r.trace
}

// run is the state of a run.
type run struct {
	Scenario
	now     time.Duration
	queue   queue
	events  int
	links   [2]link // from A to B and back
	conns   []*conn
	failure *Failure
	result  Result
	hash    uint64

	traced   int // the connection whose events go into trace; -1: none
	trace    []string
	scratch  [64 << 10]byte
	expected [64 << 10]byte
}

// conn is one connection of a run.
type conn struct {
	index  int
	script Script
	start  time.Duration
	ends   [2]*end
	wire   wire
	// abandoned is set if it is stuck, and the scenario ignores that: it is left as it is.
	abandoned bool
}

// Kinds of events.
const (
	arrive      = iota // a packet reaches the end
	wake               // the end's deadline
	act                // the end's application has something to do
	watch              // look for a stuck connection
	checkAfter         // look for resources after a connection's end
	changePath         // the link gets another path
	healPath           // the link's faults end
	connectEnds        // the connection's start
)

type event struct {
	at     time.Duration
	seq    uint64 // order of events at one time
	kind   int
	end    *end
	conn   *conn
	packet []byte
	intact bool
	side   int
	path   *Path
}

func (r *run) push(e event) { r.queue.push(e) }

// open makes the endpoints of a connection and schedules its start. The passive end listens
// from the beginning.
func (r *run) open(i int, script Script) {
	c := &conn{index: i, script: script, start: script.Start}
	r.conns = append(r.conns, c)
	for side := range c.ends {
		e := &end{conn: c, side: side, plan: []Plan{script.A, script.B}[side]}
		e.config = Config{
			Active: side == 0 || script.BothOpen, Local: address(i, side, script.V6), Remote: address(i, 1-side, script.V6), MTU: r.Scenario.MTU[side],
			SendBuffer: script.Buffers[side].Send, ReceiveBuffer: script.Buffers[side].Receive,
			Seed: mix(r.Seed ^ mix(uint64(2*i+side+1))),
		}
		if e.plan.ReadSize <= 0 {
			e.plan.ReadSize = 32 << 10
		}
		e.plan.ReadSize = min(e.plan.ReadSize, len(r.scratch))
		e.stream = mix(e.config.Seed + 1)
		c.ends[side] = e
		c.wire.ends[side] = wireEnd{scale: -1, acked: -1, edge: -1, staleWindow: []Subject{r.A, r.B}[1-side].StaleWindow}
	}
	r.push(event{at: script.Start, kind: connectEnds, conn: c})
}

func (r *run) handle(e *event) {
	switch e.kind {
	case changePath:
		r.result.Seen[SeenPathChange]++
		r.links[e.side].change(*e.path)
		r.note(nil, "path %s is now %+v", direction(e.side), *e.path)
	case healPath:
		r.links[e.side].change(r.links[e.side].path.clean())
		r.note(nil, "path %s has no faults from now on", direction(e.side))
	case connectEnds:
		c := e.conn
		for _, side := range []int{1, 0} { // the listener first
			end := c.ends[side]
			end.ep = []Subject{r.A, r.B}[side].New(end.config)
			end.progress, end.due = r.now, r.now
			r.scheduleApp(end)
			r.settle(end)
		}
		r.push(event{at: r.now + r.MaxStall/2, kind: watch, conn: c})
	case arrive:
		if e.intact {
			e.end.conn.wire.delivered(1-e.end.side, e.packet, r.result.Seen)
		}
		if r.traces(e.end.conn) {
			r.note(e.end.conn, "%*s arrives at %s: %s", 16, "", name(e.end.side), e.end.conn.describe(1-e.end.side, e.packet))
		}
		e.end.ep.Deliver(r.now, e.packet)
		r.settle(e.end)
	case wake:
		if e.end.wakeAt == e.at && e.end.wakeSet { // not an earlier deadline that moved
			e.end.wakeSet = false
			e.end.ep.Wake(r.now)
			r.settle(e.end)
		}
	case act:
		r.apply(e.end)
		r.settle(e.end)
	case watch:
		r.watch(e.conn)
	case checkAfter:
		r.checkReleased(e.conn)
	}
}

// settle takes everything that an endpoint has to give after a call: packets, notifications,
// the next deadline, its usage.
func (r *run) settle(e *end) {
	if e.instant != r.now {
		e.instant, e.calls = r.now, 0
	}
	for r.failure == nil {
		if e.calls++; e.calls > maxAtOnce {
			r.fail(e.conn, CheckStuck, "%s was called %d times at one instant", name(e.side), maxAtOnce)
			return
		}
		packets := e.ep.Packets()
		for _, p := range packets {
			r.transmit(e, p)
		}
		events := e.ep.Events()
		if events != 0 {
			r.note(e.conn, "%*s %s is %s", 16, "", name(e.side), events)
		}
		if events&Writable != 0 {
			e.up, e.canWrite = true, true
		}
		if events&Readable != 0 {
			e.canRead = true
		}
		if events == 0 && len(packets) == 0 {
			break
		}
		r.apply(e)
	}
	usage := e.ep.Usage()
	r.result.Peak = max(r.result.Peak, usage.Buffered)
	if limit := e.config.Budget(); usage.Buffered > limit && r.failure == nil {
		r.fail(e.conn, CheckMemory, "%s buffers %d bytes, more than its budget of %d", name(e.side), usage.Buffered, limit)
	}
	at, ok := e.ep.Deadline()
	if !ok {
		e.wakeSet = false
		return
	}
	at = max(at, r.now)
	if e.wakeSet && e.wakeAt == at {
		return
	}
	e.wakeAt, e.wakeSet = at, true
	r.push(event{at: at, kind: wake, end: e})
}

// transmit puts an endpoint's packet on its link.
func (r *run) transmit(e *end, packet []byte) {
	r.result.Packets++
	c, peer := e.conn, e.conn.ends[1-e.side]
	if err := c.wire.sent(e, packet); err != nil {
		r.note(c, "%s sends %s", name(e.side), c.describe(e.side, packet))
		r.fail(c, CheckWire, "%s sends a packet that %v", name(e.side), err)
		if r.failure != nil {
			return
		}
	}
	l := &r.links[e.side]
	did := l.send(r.now, packet, func(at time.Duration, p []byte, intact bool) {
		r.push(event{at: at, kind: arrive, end: peer, packet: p, intact: intact})
	})
	if did != passed {
		r.result.Seen[string(did)]++
	}
	if did.drops() {
		r.result.Lost++
	}
	if did == lostMTU {
		if icmp := tooBig(packet, l.path.MTU); icmp != nil {
			r.push(event{at: r.now + 2*l.path.Delay, kind: arrive, end: e, packet: icmp})
		}
	}
	r.hash = hash64(hash64(r.hash, uint64(r.now)), uint64(e.side)<<32|uint64(c.index))
	r.hash = hashBytes(hashBytes(r.hash, packet), []byte(did))
	if r.traces(c) {
		r.note(c, "%s sends %s %s", name(e.side), c.describe(e.side, packet), did)
	}
}

// fail records the first failure.
func (r *run) fail(c *conn, check, format string, args ...any) {
	if r.failure != nil {
		return
	}
	f := &Failure{Check: check, Conn: c.index, At: r.now, Message: fmt.Sprintf(format, args...)}
	if r.Ignore != nil && r.Ignore(f) {
		r.result.Ignored++
		c.abandoned = c.abandoned || check == CheckStuck
		r.note(c, "IGNORED: %v", f)
		return
	}
	r.failure = f
	r.note(c, "FAILURE: %v", f)
}

// unfinished returns a connection that has not ended, or any.
func (r *run) unfinished() *conn {
	for _, c := range r.conns {
		if !c.ends[0].done || !c.ends[1].done {
			return c
		}
	}
	return r.conns[0]
}

// stop releases an endpoint's goroutines.
func (r *run) stop(e *end) {
	s, ok := e.ep.(Stopper) // nil before the connection's start
	if !ok {
		return
	}
	if err := s.Stop(); err != nil {
		r.fail(e.conn, CheckMemory, "stopping %s: %v", name(e.side), err)
	}
}

// traces reports whether lines about a connection, or with nil about all, go into the trace.
func (r *run) traces(c *conn) bool { return r.traced >= 0 && (c == nil || c.index == r.traced) }

// note adds a line to the trace.
func (r *run) note(c *conn, format string, args ...any) {
	if !r.traces(c) {
		return
	}
	r.trace = append(r.trace, fmt.Sprintf("%14.6f ", r.now.Seconds())+fmt.Sprintf(format, args...))
}

// describe returns a packet on one line.
func (c *conn) describe(from int, packet []byte) string {
	s, err := Parse(packet)
	if err != nil {
		if mtu, ok := TooBig(packet); ok {
			return fmt.Sprintf("an ICMP error: the MTU is %d", mtu)
		}
		return fmt.Sprintf("a packet of %d bytes (%v)", len(packet), err)
	}
	return s.describe(c.wire.ends[from].iss, c.wire.ends[1-from].iss)
}

func name(side int) string { return "AB"[side : side+1] }

func direction(side int) string { return []string{"A to B", "B to A"}[side] }

// queue is a heap of events by time, then by the order in which they were added.
type queue struct {
	heap []event
	seq  uint64
}

func (q *queue) len() int { return len(q.heap) }

func (q *queue) less(i, j int) bool {
	a, b := &q.heap[i], &q.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	for i := len(q.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q.less(i, parent) {
			break
		}
		q.heap[i], q.heap[parent] = q.heap[parent], q.heap[i]
		i = parent
	}
}

func (q *queue) pop() event {
	top := q.heap[0]
	n := len(q.heap) - 1
	q.heap[0], q.heap[n] = q.heap[n], event{}
	q.heap = q.heap[:n]
	for i := 0; ; {
		child := 2*i + 1
		if child >= n {
			break
		}
		if child+1 < n && q.less(child+1, child) {
			child++
		}
		if !q.less(child, i) {
			break
		}
		q.heap[i], q.heap[child] = q.heap[child], q.heap[i]
		i = child
	}
	return top
}

// The hash of a run is the same in every process, unlike hash/maphash. CRC-32C has an
// instruction on most processors.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func hashBytes(h uint64, b []byte) uint64 { return hash64(h, uint64(crc32.Checksum(b, castagnoli))) }

func hash64(h, v uint64) uint64 { return mix(h ^ mix(v)) }

// mix returns a number whose bits all depend on all of v's.
func mix(v uint64) uint64 {
	v += 0x9e3779b97f4a7c15
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}
