package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/tcp"
)

// ownConn is a connection of the node's own addresses, as a [net.Conn]. It may outlive its use: after
// Close, the state machine delivers the rest of the stream and waits for the peer's end.
type ownConn struct {
	turn
	table  *ownTCP
	key    flowKey // client is the peer, dst the node itself
	dialed bool    // this end opened it

	mu       sync.Mutex    // covers the fields below
	changed  *sync.Cond    // on mu: anything below may have changed
	conn     *tcp.Conn     // nil until the table's caller has set it
	listener *ownListener  // that gets the connection when it is established; nil: none, or done
	alarm    alarm         // runs wake
	held     int64         // the part of the budget for buffers, in bytes
	closed   bool          // by Close
	shut     bool          // by CloseWrite or Close
	hard     bool          // Close resets, as SetLinger(0) asks
	closeBy  time.Duration // the end of ownLinger after Close
	read     ownDeadline
	write    ownDeadline
}

// ownDeadline is the time after which reads, or writes, fail; zero for none.
type ownDeadline struct {
	at    time.Time
	timer *time.Timer // wakes the waiting calls at that time
}

func (d *ownDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

var _ net.Conn = (*ownConn)(nil)

func newOwnConn(t *ownTCP, key flowKey) *ownConn {
	c := &ownConn{table: t, key: key}
	c.turn.of = c
	c.changed = sync.NewCond(&c.mu)
	return c
}

// deliver takes a segment of the connection.
func (c *ownConn) deliver(s *tcp.Segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil { // its SYN is about to be sent
		return
	}
	now := streamNow()
	c.conn.Deliver(now, s)
	c.settle(now)
}

// settle follows every use of the state machine. It needs mu.
func (c *ownConn) settle(now time.Duration) {
	if c.listener != nil && c.conn.Established() {
		if !c.listener.offer(c) {
			c.closed = true
			c.conn.Abort(now)
		}
		c.listener = nil
	}
	if c.closed && !c.conn.Closed() && (c.conn.Available() > 0 || now >= c.closeBy) {
		c.conn.Abort(now) // the peer learns that its data is lost
	}
	limit := c.limit()
	c.conn.SetLimits(limit, limit)
	if c.conn.Pending() {
		c.table.link.want(&c.turn)
	}
	c.schedule(now)
}

// schedule wakes waiting calls, sets the timer, and ends a connection that is over. It needs mu.
func (c *ownConn) schedule(now time.Duration) {
	c.changed.Broadcast()
	over := c.conn.Replaceable() && !c.conn.Pending()
	if over {
		c.table.remove(c)
	}
	if over && (c.closed || c.listener != nil) { // otherwise the rest can still be read
		c.conn.Release()
	}
	send, receive := c.conn.Buffered()
	c.hold(int64(send + receive))
	at, ok := c.conn.Deadline()
	if c.closed && !c.conn.Closed() && (!ok || c.closeBy < at) {
		at, ok = c.closeBy, true
	}
	if ok && !over {
		c.alarm.set(now, at, c.wake)
	}
}

// hold sets the connection's part of the budget, in bytes. It needs mu.
func (c *ownConn) hold(n int64) {
	c.table.memory.used.Add(n - c.held)
	if c.dialed {
		c.table.memory.dialed.Add(n - c.held)
	}
	c.held = n
}

// wake is the timer's function.
func (c *ownConn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.at = 0
	now := streamNow()
	c.conn.Wake(now)
	c.settle(now)
}

// pull implements [puller].
func (c *ownConn) pull(to *packet.Slab) bool {
	room := to.Room(c.table.sender.mtu)
	if room == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := streamNow()
	if putRun(c.conn, now, c.key, room, to) {
		c.settle(now)
	} else {
		c.schedule(now)
	}
	return true
}

// abort resets the connection.
func (c *ownConn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return
	}
	c.closed = true
	now := streamNow()
	c.conn.Abort(now)
	c.settle(now)
}

// awaitEstablished waits for the handshake. If that fails, the connection is over.
func (c *ownConn) awaitEstablished(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		now := streamNow()
		switch {
		case c.conn.Closed():
			err := c.failure()
			c.conn.Release()
			return err
		case c.conn.Established():
			return nil
		case ctx.Err() != nil:
			c.closed = true
			c.conn.Abort(now)
			c.settle(now)
			return context.Cause(ctx)
		}
		c.changed.Wait()
	}
}

// failure returns the error of calls on a connection that is over. It needs mu.
func (c *ownConn) failure() error {
	switch err := c.conn.Err(); {
	case c.closed:
		return net.ErrClosed
	case errors.Is(err, tcp.ErrRefused):
		return syscall.ECONNREFUSED
	case errors.Is(err, tcp.ErrUnreachable):
		return syscall.EHOSTUNREACH
	case errors.Is(err, tcp.ErrTimeout):
		return syscall.ETIMEDOUT
	case err != nil:
		return err
	default:
		return io.EOF
	}
}

// Read implements [net.Conn].
func (c *ownConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.read.passed():
			return 0, os.ErrDeadlineExceeded
		case c.conn.Available() > 0:
			n := 0
			for _, piece := range c.conn.Peek() {
				n += copy(b[n:], piece)
			}
			now := streamNow()
			c.conn.Consume(now, n)
			c.settle(now)
			return n, nil
		case c.conn.ReceivedFIN() && c.conn.Err() == nil:
			return 0, io.EOF
		case c.conn.Closed():
			return 0, c.failure()
		case len(b) == 0:
			return 0, nil
		}
		c.changed.Wait()
	}
}

// Write implements [net.Conn]. It returns when the connection has taken all bytes, which the peer
// may not have received.
func (c *ownConn) Write(b []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case c.write.passed():
			return n, os.ErrDeadlineExceeded
		case c.shut, c.conn.Closed():
			return n, syscall.EPIPE
		case len(b) == 0:
			return n, nil
		}
		room := c.conn.Room()
		if room == 0 {
			c.changed.Wait()
			continue
		}
		now := streamNow()
		m := copy(c.conn.Buffer(min(room, len(b))), b)
		c.conn.Commit(now, m)
		b, n = b[m:], n+m
		c.settle(now)
	}
}

// CloseWrite ends the own stream; the peer's can still be read.
func (c *ownConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.endStream()
	return nil
}

// endStream ends the own stream. It needs mu.
func (c *ownConn) endStream() {
	if c.shut {
		return
	}
	c.shut = true
	now := streamNow()
	c.conn.CloseWrite(now)
	c.settle(now)
}

// Close implements [net.Conn]. What was written is still delivered, within ownLinger; if the peer's
// data was not read, the peer gets a reset.
func (c *ownConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	now := streamNow()
	c.closed, c.closeBy = true, now+ownLinger
	c.shut = true
	if c.hard {
		c.conn.Abort(now)
	} else {
		c.conn.CloseWrite(now)
	}
	c.settle(now)
	for _, d := range []*ownDeadline{&c.read, &c.write} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	return nil
}

// SetLinger decides what Close does, as [net.TCPConn.SetLinger]: with 0 it resets the connection. Other values have no
// effect.
func (c *ownConn) SetLinger(seconds int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hard = seconds == 0
	return nil
}

// LocalAddr implements [net.Conn].
func (c *ownConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.key.dst) }

// RemoteAddr implements [net.Conn].
func (c *ownConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.key.client) }

// SetDeadline implements [net.Conn].
func (c *ownConn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.read, &c.write) }

// SetReadDeadline implements [net.Conn].
func (c *ownConn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.read) }

// SetWriteDeadline implements [net.Conn].
func (c *ownConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.write) }

func (c *ownConn) setDeadlines(t time.Time, deadlines ...*ownDeadline) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	for _, d := range deadlines {
		d.at = t
		if d.timer != nil {
			d.timer.Stop()
		}
		if !t.IsZero() {
			d.timer = time.AfterFunc(time.Until(t), func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.changed.Broadcast()
			})
		}
	}
	c.changed.Broadcast()
	return nil
}
