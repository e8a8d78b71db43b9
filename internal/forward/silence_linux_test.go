package forward

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// newImpatientClient returns a client whose forwarder ends a flow with a silent target or client
// after seconds.
func newImpatientClient(t *testing.T) *client {
	t.Helper()
	return startClient(t, make(chan quotedError, 16), nil, impatient)
}

// impatient shortens the times after which a silent target or client ends a flow.
func impatient(f *Forwarder) {
	table := f.tcp()
	table.silence.every, table.silence.limit, table.giveUp = time.Second, time.Second, 3*time.Second
}

// pause is longer than each of the times of [newImpatientClient], and than the pauses between
// the first window probes.
const pause = 4 * time.Second

// TestOwnStackTargetTakesNothing: a client's connection is over, and the target neither takes the
// rest nor closes. The flow ends after the time for a silent client.
func TestOwnStackTargetTakesNothing(t *testing.T) {
	c := startClient(t, make(chan quotedError, 16), nil, func(f *Forwarder) {
		table := f.tcp()
		table.silence.every, table.giveUp = time.Hour, time.Second // the target answers probes
	})
	quit := make(chan struct{})
	defer close(quit)
	port := serveTCP(t, func(conn *net.TCPConn) {
		conn.SetReadBuffer(4 << 10)
		conn.CloseWrite()
		<-quit
		conn.Close()
	})
	conn := c.mustDialTCP(targets(port)[0])
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	// A little more than the target's socket takes waits in the connection's memory.
	conn.Write(make([]byte, maxNotSent+100<<10))
	conn.CloseWrite()
	waitFor(t, "the flow to end", func() bool { return c.f.tables[TCP].active() == 0 })
}

// TestPausedTransfers: a target or a client that takes no data for long, and answers probes,
// gets all of it afterwards.
func TestPausedTransfers(t *testing.T) {
	const size = 16 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	t.Run("target", func(t *testing.T) {
		c := newImpatientClient(t)
		got := make(chan int64, 1)
		port := serveTCP(t, func(conn *net.TCPConn) {
			time.Sleep(pause)
			n, _ := io.Copy(io.Discard, conn)
			got <- n
			conn.Close()
		})
		conn := c.mustDialTCP(targets(port)[0])
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		conn.CloseWrite()
		if n := <-got; n != size {
			t.Errorf("the target got %d of %d bytes", n, size)
		}
	})
	t.Run("client", func(t *testing.T) {
		c := newImpatientClient(t)
		port := serveTCP(t, func(conn *net.TCPConn) {
			conn.Write(data)
			conn.Close()
		})
		conn := c.mustDialTCP(targets(port)[0])
		time.Sleep(pause)
		if n, err := io.Copy(io.Discard, conn); n != size || err != nil {
			t.Errorf("the client got %d of %d bytes, %v", n, size, err)
		}
	})
}

// TestSilentTarget: a target that acknowledges nothing ends the flow.
func TestSilentTarget(t *testing.T) {
	c := newImpatientClient(t)
	silenced := make(chan struct{})
	port := serveTCP(t, func(conn *net.TCPConn) {
		raw, _ := conn.SyscallConn()
		raw.Control(func(fd uintptr) {
			drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // keep 0 bytes of each packet
			unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
		})
		close(silenced)
		<-t.Context().Done()
		conn.Close()
	})
	conn := c.mustDialTCP(targets(port)[0])
	<-silenced
	if _, err := conn.Write([]byte("is anybody there?")); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want a reset", err)
	}
	waitFor(t, "the flow to fail", func() bool { return testutil.ToFloat64(c.f.account.closed[TCP][failed]) == 1 })
}

// TestSilentClient: a client that acknowledges nothing ends the flow.
func TestSilentClient(t *testing.T) {
	c := newImpatientClient(t)
	asked, gone := make(chan struct{}), make(chan struct{})
	port := serveTCP(t, func(conn *net.TCPConn) {
		io.ReadFull(conn, make([]byte, 2))
		close(asked)
		<-gone
		conn.Write([]byte("answer"))
		<-t.Context().Done()
		conn.Close()
	})
	conn := c.mustDialTCP(targets(port)[0])
	io.WriteString(conn, "hi")
	<-asked
	c.stack.RemoveNIC(1)
	close(gone)
	waitFor(t, "the flow to fail", func() bool { return testutil.ToFloat64(c.f.account.closed[TCP][failed]) == 1 })
}
