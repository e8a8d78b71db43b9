//go:build !omit_gvisor

package forward

import (
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcpTable holds the flows of TCP: an endpoint of the stack towards the client, a socket
// towards the target, and a buffer between them only while bytes move.
type tcpTable struct {
	*core
	endpoint    *linkEndpoint
	forwarder   *tcp.Forwarder
	pendingSYNs atomic.Int32 // SYNs that wait until an old connection is gone

	silence silenceCheck

	// mu guards flows. A flow is among them from the moment its socket is connecting until
	// its release. mu is held for walks over all flows, and taken by no packet delivery.
	mu    sync.Mutex
	flows map[*tcpFlow]struct{}
}

// newTCPTable returns a table with a stack of its own. Its flows end by cut; the stack is never
// closed.
func newTCPTable(c *core) (*tcpTable, error) {
	t := &tcpTable{
		core: c, endpoint: &linkEndpoint{link: c.link, mtu: uint32(c.sender.mtu)},
		silence: newSilenceCheck(c.targetKeepAlive), flows: map[*tcpFlow]struct{}{},
	}
	s, err := newStack(t.endpoint)
	if err != nil {
		return nil, err
	}
	c.drops.stack = t.endpoint.droppedByStack
	// This table enforces the limits, with resets; the stack's own limit would drop SYNs
	// silently.
	const noLimit = 1 << 30
	t.forwarder = tcp.NewForwarder(s, initialBuffer, noLimit, t.open)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, t.forwarder.HandlePacket)
	return t, nil
}

// tcpFlow is one TCP flow. Its stages follow one another:
//
//	  SYN           connected            handshake complete
//	──────▶ dialing ─────────▶ accepting ───────────────────▶ forwarding
//	           │                   │                              │
//	           │ refused, timed    │ the client reset it,         │ both sides are done (ended),
//	           │ out, aborted      │ or did not answer            │ one failed, cut, revoked
//	           ▼                   ▼                              ▼
//	           └──────────────▶ closed ◀──────────────────────────┘
//
//	dialing      the target's socket is connecting; the client's SYN has no answer yet. A
//	             failure resets the client's connection at once.
//	accepting    the stack completes the client's handshake. An abort waits for its end, since
//	             the stack offers no way to stop it.
//	forwarding   bytes move. If both sides have closed, the end is a normal one; any other end
//	             is a reset to both.
//	closed       the flow has no socket, no endpoint and no reservation, and is in no table.
//
// One goroutine at a time owns the flow: open until it ends the task's first run, then the task's
// step, except that accept owns it while accepting, for which the stack needs a goroutine that
// waits. Only the owner changes the stage, uses the fields without a comment, and closes the
// socket; so none of these needs a lock. Other goroutines read the stage, set the atomic
// requests (abort, revoked, probe), and make the task ready.
type tcpFlow struct {
	task
	record
	table       *tcpTable
	fd          int           // the target's socket, from open until release closes it; -1 before
	stage       atomic.Int32  // stageDialing and so on
	abort       atomic.Bool   // abort at the next step
	revoked     atomic.Bool   // aborted because the flow is no longer allowed
	probe       atomic.Bool   // check at the next step whether the target has fallen silent
	delivered   atomic.Int64  // the bytes sent to the target when it had last acknowledged all
	writeFailed bool          // a write to the target failed
	held        int64         // the flow's part of the budget for buffers, in bytes
	minRTT      time.Duration // the lowest round-trip time to the client seen so far; 0 if none

	request *tcp.ForwarderRequest // set while dialing and accepting
	ep      tcpip.Endpoint        // set while forwarding
	// queue has the events of ep, and entry makes the task ready on them. It is registered
	// from the end of accept until end.
	queue waiter.Queue
	entry waiter.Entry

	upward, downward half
}

// half is the state of one direction of a flow. Its source is the client (upward) or the target
// (downward), its sink the other. eof and done are final: eof comes first, done once the bytes
// before it have left.
type half struct {
	buf        *[]byte // from the pool; nil while there are no bytes
	start, end int     // the bytes that the sink has not taken are buf[start:end]
	eof        bool    // the source has closed its side
	done       bool    // and that was passed on to the sink
	blocked    bool    // the sink is full
	bulk       bool    // downward: the last read was a large one
	budget     int     // bytes that the current call may still move
}

// open is called by the stack for each SYN, on a new goroutine, which ends when open returns:
// events drive the flow from then on.
func (t *tcpTable) open(r *tcp.ForwarderRequest) {
	id := r.ID()
	key := flowKey{addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)}
	if verdict := t.rules.check(packet.ProtoTCP, key); verdict != allowed {
		t.account.flowFailed(TCP, t.routes.lookup(key.dst.Addr()), forbidden)
		if verdict == noRule {
			t.drops.add(dropFlowFailed, 1)
		}
		r.Complete(verdict == denied) // the argument asks for a reset
		return
	}
	node, ok := t.limits.reserve(key.client.Addr())
	if !ok {
		t.account.flowFailed(TCP, t.routes.lookup(key.dst.Addr()), limited)
		r.Complete(true)
		return
	}
	fl := &tcpFlow{
		protocol: TCP, key: key, target: key.target(), peer: node,
		route: t.routes.lookup(key.dst.Addr()), opened: time.Now(),
		table: t, request: r, fd: -1,
	}
	fl.step = fl.advance
	fl.begin()
	to, err := t.rules.dialAddr(TCP, fl.target)
	if err == nil {
		fl.fd, err = connect(unix.SOCK_STREAM, to)
	}
	if err == nil {
		keepAlive(fl.fd, t.targetKeepAlive)
		t.mu.Lock()
		t.flows[fl] = struct{}{}
		t.mu.Unlock()
		// The check above may predate a change of the deny list or the rules whose
		// Recheck did not see the flow in the table.
		if t.rules.check(packet.ProtoTCP, key) != allowed {
			fl.revoked.Store(true)
			fl.abort.Store(true)
		}
		err = t.poll.watch(fl.fd, alsoWritable, &fl.task)
	}
	if err != nil {
		fl.refuse(err)
		return
	}
	// A connection that was decided before the socket was watched is reported as an event,
	// too.
	t.sched.done(&fl.task)
}

// addrPort converts an address of the stack.
func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

// advance is the task's step. In the other stages an event needs no work: accept makes the task
// ready once more at its end, and a closed flow may have events from before.
func (fl *tcpFlow) advance() {
	switch fl.stage.Load() {
	case stageDialing:
		fl.dialed()
	case stageForwarding:
		fl.forward()
	}
}

// dialed checks the progress of the dial. An event may come before the result, and the sweep
// makes the task ready when the time is over.
func (fl *tcpFlow) dialed() {
	t := fl.table
	err := socketError(fl.fd)
	if err == nil && !connected(fl.fd) {
		if waited := time.Since(fl.opened); waited < t.dialTimeout && !fl.abort.Load() {
			return
		}
		err = unix.ETIMEDOUT
	}
	if err != nil {
		fl.refuse(err)
		return
	}
	fl.dial = time.Since(fl.opened)
	t.account.dialed(fl.dial)
	fl.stage.Store(stageAccepting)
	go fl.accept()
}

// refuse resets the connection of a client whose target cannot be reached. It leads from dialing
// to closed.
func (fl *tcpFlow) refuse(err error) {
	t := fl.table
	reason := dialFailure(err)
	t.account.dialed(time.Since(fl.opened))
	t.account.flowFailed(TCP, fl.route, reason)
	t.logs.debug("dialing target failed", "protocol", "tcp", "target", fl.target, "reason", reason, "err", err)
	fl.stage.Store(stageClosed)
	fl.request.Complete(true)
	fl.release()
}

// accept completes the client's handshake, which takes a round trip. It owns the flow meanwhile,
// and passes it to the task, or closes it.
func (fl *tcpFlow) accept() {
	t := fl.table
	ep, err := fl.request.CreateEndpoint(&fl.queue)
	fl.request.Complete(err != nil)
	fl.request = nil
	if err != nil {
		t.account.flowFailed(TCP, fl.route, other)
		fl.stage.Store(stageClosed)
		resetOnClose(fl.fd)
		fl.release()
		return
	}
	fl.ep = ep
	idle, interval := tcpip.KeepaliveIdleOption(t.clientKeepAlive(fl.key.dst.Port())), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	if share := t.memory.share(); share < initialBuffer {
		ep.SocketOptions().SetReceiveBufferSize(share, false)
	}
	ep.SocketOptions().SetSendBufferSize(initialBuffer, true) // true: growSend replaces the stack's tuning
	var info tcpip.TCPInfoOption
	if ep.GetSockOpt(&info) == nil {
		fl.peer.noteHandshake(info.RTT)
	}
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
	ep.SocketOptions().SetKeepAlive(true)
	ep.SocketOptions().SetDelayOption(false)
	t.account.flowOpened(TCP)
	fl.activity.fromClient() // clients usually send first
	fl.stage.Store(stageForwarding)
	fl.entry.Init(notifier{fl}, waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	fl.queue.EventRegister(&fl.entry)
	t.sched.ready(&fl.task) // for events before the registration
}

// notifier makes the flow's task ready on events of the client's endpoint.
type notifier struct{ fl *tcpFlow }

func (n notifier) NotifyEvent(waiter.EventMask) { n.fl.table.sched.ready(&n.fl.task) }

// forward moves bytes until neither direction can, the flow has ended, or the other flows are to
// get a turn. Events are edge-triggered: it must not return while a direction could move bytes,
// unless it makes the task ready again.
func (fl *tcpFlow) forward() {
	if fl.abort.Load() {
		reason := cut
		if fl.revoked.Load() {
			reason = revoked
		}
		fl.end(reason)
		return
	}
	more := false
	for _, move := range []func() (progress bool, err error){fl.moveUp, fl.moveDown} {
		progress, err := true, error(nil)
		for i := 0; progress && err == nil; i++ {
			if i == moveBudget {
				more = true
				break
			}
			progress, err = move()
		}
		if err != nil {
			fl.end(failed)
			return
		}
	}
	if fl.upward.done && fl.downward.done {
		if fl.writeFailed {
			fl.end(failed)
		} else {
			fl.end(ended)
		}
		return
	}
	if fl.failedSilently() || fl.probe.Swap(false) && targetSilent(&fl.record, fl.fd, &fl.delivered, fl.table.silence.limit) {
		fl.end(failed)
		return
	}
	fl.updateHeld()
	if more {
		fl.table.sched.ready(&fl.task)
	}
}

// failedSilently reports whether a side failed although no read or write returns the error,
// because that direction is closed or waits for the other side.
func (fl *tcpFlow) failedSilently() bool {
	switch state := tcp.EndpointState(fl.ep.State()); {
	case state == tcp.StateError:
		return true
	case state == tcp.StateClose && !fl.downward.done:
		return true
	}
	return (fl.downward.done || fl.upward.blocked) && !fl.upward.done && socketError(fl.fd) != nil
}

// stackError is an error of the client's endpoint.
type stackError struct{ err tcpip.Error }

func (e stackError) Error() string { return e.err.String() }

// moveUp moves bytes from the client to the target. It returns false when it has to wait for
// either, whose next event then makes the task ready. An error ends the flow.
func (fl *tcpFlow) moveUp() (progress bool, err error) {
	h := &fl.upward
	if h.done {
		return false, nil
	}
	h.blocked = false
	if fl.sendBuffered(); h.blocked {
		return false, nil
	}
	if !h.eof && !fl.writeFailed {
		h.budget = bufferSize
		read, tcpErr := fl.ep.Read((*toTarget)(fl), tcpip.ReadOptions{})
		if read.Count > 0 {
			fl.growReceive(read.Count)
		}
		switch tcpErr.(type) {
		case nil, *tcpip.ErrBadBuffer: // toTarget pauses with ErrBadBuffer
		case *tcpip.ErrWouldBlock:
			return false, nil
		case *tcpip.ErrClosedForReceive:
			h.eof = true
		default:
			fl.free(h)
			return false, stackError{tcpErr}
		}
		fl.sendBuffered()
	}
	fl.activity.fromClient()
	switch {
	case fl.writeFailed:
		// The target takes no more data, but its last answer may still be read.
		fl.free(h)
		h.done = true
		return false, nil
	case h.blocked:
		return false, nil
	case h.eof:
		h.done = true
		unix.Shutdown(fl.fd, unix.SHUT_WR)
		return false, nil
	}
	return true, nil
}

// toTarget is a flow as the sink of its client's data. Large pieces go from the stack's memory
// to the socket without a copy; small ones are first gathered in a buffer. It takes only as
// much as the target does. The rest stays in the stack, whose window then makes the client
// wait.
type toTarget tcpFlow

// directWrite is the size from which a piece is worth a system call.
const directWrite = 8 << 10

// errPause ends a read of the stack early.
var errPause = errors.New("no more for now")

// Write implements io.Writer for the stack. It returns errPause with the first byte that it does
// not take: the stack then keeps that byte and all after it for the next call of moveUp.
func (w *toTarget) Write(b []byte) (int, error) {
	fl := (*tcpFlow)(w)
	h := &fl.upward
	if h.budget <= 0 || h.blocked || fl.writeFailed {
		return 0, errPause
	}
	h.budget -= len(b)
	if len(b) < directWrite {
		if h.buf == nil {
			h.buf = fl.table.buffers.get()
			h.start, h.end = 0, 0
		}
		n := copy((*h.buf)[h.end:], b)
		h.end += n
		if n < len(b) {
			return n, errPause
		}
		return n, nil
	}
	if fl.sendBuffered(); h.buf != nil || fl.writeFailed {
		return 0, errPause
	}
	n := fl.send(b)
	if n < len(b) {
		return n, errPause
	}
	return n, nil
}

// sendBuffered sends the bytes in the buffer, and frees it once it is empty. Bytes in the buffer
// are older than those in the stack, and go first.
func (fl *tcpFlow) sendBuffered() {
	h := &fl.upward
	if h.buf == nil || fl.writeFailed {
		return
	}
	if h.start += fl.send((*h.buf)[h.start:h.end]); h.start == h.end {
		fl.free(h)
	}
}

// send sends as much of b as the target takes, and records whether it stopped because the
// socket is full or broken.
func (fl *tcpFlow) send(b []byte) (sent int) {
	for sent < len(b) {
		n, err := unix.Write(fl.fd, b[sent:])
		switch {
		case err == nil:
			sent += n
		case err == unix.EINTR:
		case wouldBlock(err):
			fl.upward.blocked = true
			fl.countSent(sent)
			return sent
		default:
			fl.writeFailed = true
			fl.countSent(sent)
			return sent
		}
	}
	fl.countSent(sent)
	return sent
}

// countSent counts n bytes that the target's socket took as one packet.
func (fl *tcpFlow) countSent(n int) {
	if n > 0 {
		fl.table.account.sentUp(&fl.record, n, 1)
	}
}

// moveDown moves bytes from the target to the client. It returns false when it has to wait for
// either.
func (fl *tcpFlow) moveDown() (progress bool, err error) {
	h, t := &fl.downward, fl.table
	if h.done {
		return false, nil
	}
	h.blocked = false
	fl.limitSend()
	if h.buf == nil && !h.eof && h.bulk {
		if h.budget = min(readableBytes(fl.fd), buffer.MaxChunkSize); h.budget < directWrite {
			h.bulk = false
		} else {
			n, tcpErr := fl.ep.Write((*fromTarget)(fl), tcpip.WriteOptions{})
			return fl.wroteDown(n, tcpErr)
		}
	}
	if h.buf == nil && !h.eof {
		h.buf = t.buffers.get()
		n, err := unix.Read(fl.fd, *h.buf)
		if err != nil {
			fl.free(h)
			if wouldBlock(err) {
				return err == unix.EINTR, nil
			}
			return false, err
		}
		h.start, h.end, h.eof, h.bulk = 0, n, n == 0, n > directWrite
	}
	for h.buf != nil && h.start < h.end {
		r := payload((*h.buf)[h.start:h.end])
		n, tcpErr := fl.ep.Write(&r, tcpip.WriteOptions{})
		h.start += int(n)
		if more, err := fl.wroteDown(n, tcpErr); !more {
			return false, err
		}
	}
	fl.activity.fromTarget()
	fl.free(h)
	if h.eof {
		h.done = true
		fl.ep.Shutdown(tcpip.ShutdownWrite)
		return false, nil
	}
	return true, nil
}

// wroteDown counts the bytes that the stack took, and reports whether it takes more.
func (fl *tcpFlow) wroteDown(n int64, tcpErr tcpip.Error) (more bool, err error) {
	if n > 0 {
		fl.activity.fromTarget()
	}
	fl.table.account.sentDown(&fl.record, int(n), 1)
	switch tcpErr.(type) {
	case nil:
		return true, nil
	case *tcpip.ErrWouldBlock:
		fl.downward.blocked = true
		fl.growSend()
		return false, nil
	}
	return false, stackError{tcpErr}
}

// fromTarget is a flow as the source of its target's data, of which downward.budget bytes are
// known to be readable. The stack reads them from the socket into its own memory.
type fromTarget tcpFlow

func (s *fromTarget) Len() int { return s.downward.budget }

// Read implements tcpip.Payloader. The stack asks for at most Len bytes, which the kernel has
// already: a read fails only if the connection did, and then the flow ends.
func (s *fromTarget) Read(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Read(s.fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.ErrUnexpectedEOF
		}
		n += m
	}
	return n, nil
}

// free returns the buffer of a direction, with the bytes in it, to the pool.
func (fl *tcpFlow) free(h *half) {
	if h.buf != nil {
		fl.table.buffers.put(h.buf)
		h.buf = nil
	}
}

// payload is a tcpip.Payloader over bytes.
type payload []byte

func (p *payload) Len() int { return len(*p) }

func (p *payload) Read(b []byte) (int, error) {
	n := copy(b, *p)
	*p = (*p)[n:]
	return n, nil
}

// end closes both sides: normally if both were done, otherwise with resets. It leads from
// forwarding to closed, and is the only way to it that is counted as the end of an open flow.
func (fl *tcpFlow) end(reason string) {
	t := fl.table
	fl.stage.Store(stageClosed)
	fl.queue.EventUnregister(&fl.entry)
	if reason == ended {
		fl.ep.Close()
	} else {
		resetOnClose(fl.fd)
		fl.ep.Abort()
	}
	fl.free(&fl.upward)
	fl.free(&fl.downward)
	fl.hold(0)
	fl.release()
	t.account.flowEnded(&fl.record, reason)
}

// release closes the target's socket, removes the flow from the table and ends its reservation.
// The owner calls it once, as the last step. The socket's number may be another flow's afterwards:
// the poller forgets it first, and no other goroutine uses it.
func (fl *tcpFlow) release() {
	if fl.fd >= 0 {
		fl.table.poll.forget(fl.fd)
		unix.Close(fl.fd)
	}
	fl.table.mu.Lock()
	delete(fl.table.flows, fl)
	fl.table.mu.Unlock()
	fl.table.limits.release(fl.peer)
}

// sweep makes the dials ready that have timed out, and starts the checks for silent targets.
func (t *tcpTable) sweep(now time.Time) {
	t.mu.Lock()
	for fl := range t.flows {
		if fl.stage.Load() == stageDialing && now.Sub(fl.opened) >= t.dialTimeout {
			t.sched.ready(&fl.task)
		}
	}
	t.mu.Unlock()
	t.checkSilence(now)
}

// cut marks every flow for a worker to abort, and returns the number of those past dialing.
func (t *tcpTable) cut() (open int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fl := range t.flows {
		if fl.stage.Load() != stageDialing {
			open++
		}
		fl.abort.Store(true)
		t.sched.ready(&fl.task)
	}
	return open
}

// ending returns the number of flows that are still to be aborted. It ignores those whose
// client has yet to complete the handshake: it may never do so, and has no data to lose.
func (t *tcpTable) ending() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fl := range t.flows {
		if fl.abort.Load() && fl.stage.Load() != stageAccepting {
			n++
		}
	}
	return n
}

// active returns the number of flows past dialing.
func (t *tcpTable) active() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fl := range t.flows {
		if fl.stage.Load() != stageDialing {
			n++
		}
	}
	return n
}

func (t *tcpTable) walk(visit func(flow)) {
	each(&t.mu, t.flows, func(fl *tcpFlow, _ struct{}) { visit(fl) })
}

// close does nothing: closing the stack would wait for connections that are still ending.
func (t *tcpTable) close() {}

func (fl *tcpFlow) open() bool { return fl.stage.Load() == stageForwarding }

func (fl *tcpFlow) busy(now time.Time) bool { return !fl.open() || fl.activity.busy(now) }

// revoke marks the flow for a worker to abort.
func (fl *tcpFlow) revoke() {
	fl.revoked.Store(true)
	fl.abort.Store(true)
	fl.table.sched.ready(&fl.task)
}

// checkSilence asks the flows whose target may have data to acknowledge to check that at their
// next step.
func (t *tcpTable) checkSilence(now time.Time) {
	if !t.silence.due(now) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for fl := range t.flows {
		if fl.stage.Load() == stageForwarding && fl.up.bytes.Load() != fl.delivered.Load() {
			fl.probe.Store(true)
			t.sched.ready(&fl.task)
		}
	}
}
