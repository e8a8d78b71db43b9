package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

func TestTCPKeepsHalfClose(t *testing.T) {
	c := newClient(t, nil)
	// The server answers only after the client's FIN.
	port := serveTCP(t, func(conn *net.TCPConn) {
		defer conn.Close()
		request, _ := io.ReadAll(conn)
		io.WriteString(conn, strings.ToUpper(string(request)))
	})
	for _, target := range targets(port) {
		conn := c.mustDialTCP(target)
		io.WriteString(conn, "half-close")
		conn.CloseWrite()
		if answer, err := io.ReadAll(conn); err != nil || string(answer) != "HALF-CLOSE" {
			t.Errorf("%v: answer %q, %v", target, answer, err)
		}
	}
	c.noFlows()
	if got := testutil.ToFloat64(c.f.account.toVPC[TCP]); got != 30 {
		t.Errorf("counted %v bytes to the VPC, want 30", got)
	}
	if got := testutil.ToFloat64(c.f.account.closed[TCP][ended]); got != 3 {
		t.Errorf("counted %v flows as ended, want 3", got)
	}
}

func TestTCPServerEndsFirst(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "bye")
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
	})
	conn := c.mustDialTCP(targets(port)[0])
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("read %q, %v", got, err)
	}
	// The other direction is still open.
	if _, err := io.WriteString(conn, "still here"); err != nil {
		t.Errorf("writing after the server closed its side: %v", err)
	}
	conn.Close()
	c.noFlows()
}

func TestTCPCarriesBulkBothWaysAtOnce(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) {
		io.Copy(conn, conn)
		conn.CloseWrite()
	})
	sent := make([]byte, 3<<20)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	var all sync.WaitGroup
	for _, target := range targets(port) {
		all.Go(func() {
			conn, err := c.dialTCP(target)
			if err != nil {
				t.Error(err)
				return
			}
			go func() { conn.Write(sent); conn.CloseWrite() }()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%v: got %d bytes of %d back, equal %v, %v", target, len(got), len(sent), bytes.Equal(got, sent), err)
			}
		})
	}
	all.Wait()
	c.noFlows()
}

// TestTCPBackpressure: while the target does not read, the sender can send no more than the
// buffers on the way hold.
func TestTCPBackpressure(t *testing.T) {
	c := newClient(t, nil)
	release := make(chan struct{})
	read := make(chan int64, 1)
	port := serveTCP(t, func(conn *net.TCPConn) {
		conn.SetReadBuffer(64 << 10)
		<-release
		n, _ := io.Copy(io.Discard, conn)
		read <- n
	})
	conn := c.mustDialTCP(targets(port)[0])
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	chunk := make([]byte, 64<<10)
	var sent int64
	for {
		n, err := conn.Write(chunk)
		sent += int64(n)
		if err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("sent 64 MiB to a target that does not read")
		}
	}
	close(release)
	conn.SetDeadline(time.Now().Add(patience))
	conn.CloseWrite()
	if got := <-read; got != sent {
		t.Errorf("the target read %d bytes of %d", got, sent)
	}
}

func TestTCPForwardsResets(t *testing.T) {
	c := newClient(t, nil)
	t.Run("from the server", func(t *testing.T) {
		port := serveTCP(t, func(conn *net.TCPConn) {
			conn.SetLinger(0)
			io.ReadFull(conn, make([]byte, 1))
			conn.Close()
		})
		conn := c.mustDialTCP(targets(port)[0])
		conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("client read: %v, want a reset", err)
		}
		c.noFlows()
	})
	t.Run("from the client", func(t *testing.T) {
		saw := make(chan error, 1)
		port := serveTCP(t, func(conn *net.TCPConn) {
			conn.SetDeadline(time.Now().Add(patience))
			_, err := io.Copy(io.Discard, conn)
			saw <- err
		})
		conn := c.mustDialTCP(targets(port)[0])
		conn.Write([]byte("x"))
		waitFor(t, "the flow", func() bool { return c.f.Active()[TCP] == 1 })
		// A client that closes with unread data sends a reset.
		c.stack.RemoveAddress(1, tcpipAddr(client4))
		defer c.addAddress(client4)
		c.f.tables[TCP].cut()
		if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("server read: %v, want a reset", err)
		}
	})
}

func TestTCPRefusedIsAnImmediateReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	c := newClient(t, nil)
	for _, target := range targets(port) {
		start := time.Now()
		_, err := c.dialTCP(target)
		if err == nil || !strings.Contains(err.Error(), "refused") || time.Since(start) > 2*time.Second {
			t.Errorf("%v: %v after %v, want refused at once", target, err, time.Since(start))
		}
	}
	c.noFlows()
	if got := testutil.ToFloat64(c.f.account.failed[TCP][refused]); got != 3 {
		t.Errorf("counted %v refusals, want 3", got)
	}
}

func TestTCPFailuresAreCountedByReason(t *testing.T) {
	for reason, errno := range map[string]error{
		unreachable: os.NewSyscallError("connect", syscall.EHOSTUNREACH),
		exhausted:   os.NewSyscallError("socket", syscall.EMFILE),
		other:       errors.New("something else"),
	} {
		c := newClient(t, func(cfg *Config) {
			cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, errno }
		})
		if _, err := c.dialTCP(targets(80)[0]); err == nil {
			t.Errorf("%s: connected", reason)
		}
		if got := testutil.ToFloat64(c.f.account.failed[TCP][reason]); got != 1 {
			t.Errorf("%s: counted %v, want 1", reason, got)
		}
	}
}

// TestTCPSilentTargetTimesOut dials a listener whose queue is full, so that the dial stays in
// progress.
func TestTCPSilentTargetTimesOut(t *testing.T) {
	full := fullListener(t)
	c := newClient(t, func(cfg *Config) {
		cfg.DialTimeout = 300 * time.Millisecond
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) { return full, nil }
	})
	start := time.Now()
	if _, err := c.dialTCP(targets(80)[0]); err == nil {
		t.Fatal("connected to a listener whose queue is full")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("gave up after %v", took)
	}
	if got := testutil.ToFloat64(c.f.account.failed[TCP][timedOut]); got < 1 {
		t.Errorf("counted %v time-outs", got)
	}
	c.noFlows()
}

// fullListener returns a listener that accepts no connection and has its queue filled.
func fullListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, _ := syscall.Getsockname(fd)
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*syscall.SockaddrInet4).Port))
	for range 8 {
		conn, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this system's listeners cannot be filled")
	return addr
}

// TestTCPReusesTuple opens connections in sequence on one 4-tuple, each closed first by the
// server: every connection must succeed.
func TestTCPReusesTuple(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.WriteString(conn, "ok"); conn.Close() })
	for i := range 200 {
		var conn *gonet.TCPConn
		var err error
		// The client's own stack releases the port once its FIN was acknowledged.
		waitFor(t, "the port", func() bool {
			conn, err = c.dialTCPFrom(40000, targets(port)[0])
			return err == nil || !strings.Contains(err.Error(), "port is in use")
		})
		if err != nil {
			t.Fatalf("connection %d on one 4-tuple: %v", i, err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "ok" {
			t.Fatalf("connection %d: read %q, %v", i, got, err)
		}
		conn.Close()
	}
	c.noFlows()
}

func TestTCPBurst(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			conn, err := c.dialTCP(targets(port)[i%3])
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(conn, "hello %d", i)
			conn.CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != fmt.Sprintf("hello %d", i) {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	all.Wait()
	c.noFlows()
}

func TestLimitsRefuseNewFlowsAndKeepOldOnes(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxFlows, cfg.MaxFlowsPerPeer = 3, 2 })
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	old := c.mustDialTCP(targets(port)[0])
	c.mustDialTCP(targets(port)[0])
	if _, err := c.dialTCP(targets(port)[0]); err == nil {
		t.Error("a peer opened more flows than its limit")
	}
	// The address of the other family is another peer, for which one flow is left.
	c.mustDialTCP(targets(port)[1])
	if _, err := c.dialTCP(targets(port)[1]); err == nil {
		t.Error("more flows were opened than the limit of all peers")
	}
	if got := testutil.ToFloat64(c.f.account.failed[TCP][limited]); got != 2 {
		t.Errorf("counted %v refusals by limit, want 2", got)
	}
	io.WriteString(old, "alive")
	if got, err := io.ReadAll(io.LimitReader(old, 5)); err != nil || string(got) != "alive" {
		t.Errorf("echo over the old flow: %q, %v", got, err)
	}
	if problems, err := testutil.GatherAndLint(c.reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics lint: %v %v", problems, err)
	}
}

func TestCloseEndsFlows(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(io.Discard, conn) })
	conn := c.mustDialTCP(targets(port)[0])
	if n := c.f.Close(); n != (Counts{TCP: 1}) {
		t.Errorf("Close returned %v flows, want one of TCP", n)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("client read: %v, want a reset", err)
	}
}

func TestIdleFlowsHaveNoGoroutine(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	const flows = 300
	before := runtime.NumGoroutine()
	for i := range flows {
		conn := c.mustDialTCP(targets(port)[i%3])
		conn.Write([]byte("x"))
		io.ReadFull(conn, make([]byte, 1))
	}
	// The test's server has one goroutine for each connection; the forwarder must have
	// none.
	waitFor(t, "goroutines that accepted to end", func() bool { return runtime.NumGoroutine() < before+flows+30 })
	if got := c.f.Flows(10); len(got) != 10 || got[0].ToVPCBytes != 1 || got[0].ToTailnetBytes != 1 || got[0].Protocol != TCP {
		t.Errorf("the first 10 flows are %+v", got)
	}
}

// TestScanStarvesNoOtherClient dials a thousand silent targets; a service stays reachable, and
// no flow is left when the dials have timed out.
func TestScanStarvesNoOtherClient(t *testing.T) {
	silent := fullListener(t)
	port := serveTCP(t, func(conn *net.TCPConn) { io.WriteString(conn, "here"); conn.Close() })
	const dialTimeout = 3 * time.Second // after which a place that the scan takes is free again
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.DialTimeout = dialTimeout
		cfg.Resolve = func(network string, target netip.AddrPort) (netip.AddrPort, error) {
			if target.Port() == port {
				return toLoopback(network, target)
			}
			return silent, nil
		}
	})
	var scan sync.WaitGroup
	for i := range 1000 {
		scan.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			addr, protocol := c.full(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 81))
			if conn, err := gonet.DialContextTCP(ctx, c.stack, addr, protocol); err == nil {
				conn.Close()
				t.Error("a dial to a silent target succeeded")
			}
		})
	}
	waitFor(t, "the scan to be under way", func() bool { c.f.limits.mu.Lock(); defer c.f.limits.mu.Unlock(); return c.f.limits.reserved > 500 })
	start := time.Now()
	conn := c.mustDialTCP(targets(port)[0])
	if got, err := io.ReadAll(conn); err != nil || string(got) != "here" || time.Since(start) > dialTimeout {
		t.Errorf("during the scan: %q, %v after %v", got, err, time.Since(start))
	}
	conn.Close()
	scan.Wait()
	c.noFlows()
}

func TestFinishedDescribesTheFlow(t *testing.T) {
	flows := make(chan Flow, 1)
	c := newClient(t, func(cfg *Config) { cfg.Finished = func(fl Flow) { flows <- fl } })
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(io.Discard, conn); io.WriteString(conn, "thanks"); conn.Close() })
	target := targets(port)[2] // 4via6
	conn := c.mustDialTCP(target)
	io.WriteString(conn, "question")
	conn.CloseWrite()
	io.ReadAll(conn)
	fl := <-flows
	if fl.Protocol != TCP || fl.Client.Addr() != client6 || fl.Address != target || fl.Target.Addr() != netip.MustParseAddr("10.0.3.4") ||
		fl.ToVPCBytes != 8 || fl.ToTailnetBytes != 6 || fl.End != ended || fl.Dial <= 0 || fl.Duration < fl.Dial {
		t.Errorf("finished flow %+v", fl)
	}
}

// TestTCPDetectsResetOfIdleSide closes one direction, then resets from the other side, while
// there is nothing to read or write.
func TestTCPDetectsResetOfIdleSide(t *testing.T) {
	c := newClient(t, nil)
	t.Run("server resets after its end", func(t *testing.T) {
		connected := make(chan struct{})
		port := serveTCP(t, func(conn *net.TCPConn) {
			<-connected
			conn.CloseWrite()
			time.Sleep(100 * time.Millisecond) // lets the FIN arrive first
			conn.SetLinger(0)
			conn.Close()
		})
		conn := c.mustDialTCP(targets(port)[0])
		close(connected)
		if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
		c.noFlows() // although the client neither writes nor closes
	})
	t.Run("client vanishes after its end", func(t *testing.T) {
		hold := make(chan struct{})
		port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(io.Discard, conn); <-hold; conn.Close() })
		defer close(hold)
		conn := c.mustDialTCP(targets(port)[0])
		conn.CloseWrite()
		waitFor(t, "the end to arrive", func() bool {
			n := 0
			c.f.tables[TCP].walk(func(flow) { n++ })
			return n == 1
		})
		time.Sleep(50 * time.Millisecond)
		c.stack.Close() // resets the open connections
		c.noFlows()
	})
}

// TestTCPDeliversAnswerBeforeReset: the answer of a server that refuses an upload, sent before
// it closed, reaches the client.
func TestTCPDeliversAnswerBeforeReset(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "413 too large")
		conn.CloseWrite()
		time.Sleep(50 * time.Millisecond)
		conn.Close() // with unread data: a reset
	})
	conn := c.mustDialTCP(targets(port)[0])
	go conn.Write(make([]byte, 4<<20))
	got := make([]byte, 13)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "413 too large" {
		t.Errorf("read %q, %v", got, err)
	}
	conn.Close()
	c.noFlows()
}

// TestConcurrentStreams moves bytes on many connections at a time, whose segments come in the same
// batches. The path loses nothing, so neither side may have to repeat a segment.
func TestConcurrentStreams(t *testing.T) {
	const streams, size = 8, 1 << 20
	c := newClient(t, nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var done sync.WaitGroup
	done.Add(streams)
	port := serveTCP(t, func(conn *net.TCPConn) {
		defer done.Done()
		go func() { conn.Write(data); conn.CloseWrite() }()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("a target got %d bytes, %v, want %d", len(got), err, len(data))
		}
		conn.Close()
	})
	for range streams {
		conn := c.mustDialTCP(targets(port)[0])
		done.Go(func() { conn.Write(data); conn.CloseWrite() })
		done.Go(func() {
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
				t.Errorf("a client got %d bytes, %v, want %d", len(got), err, len(data))
			}
		})
	}
	done.Wait()
	if n := c.stack.Stats().TCP.FastRetransmit.Value(); n != 0 {
		t.Errorf("the clients have repeated segments %d times", n)
	}
}

// TestEndWaitsForTheTarget: what the client sent before the end of a connection reaches a target that
// closed its own side first, and reads slowly. The client's connection is over before.
func TestEndWaitsForTheTarget(t *testing.T) {
	c := newClient(t, nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16)
	done := make(chan struct{})
	port := serveTCP(t, func(conn *net.TCPConn) {
		defer close(done)
		defer conn.Close()
		conn.SetReadBuffer(64 << 10)
		conn.CloseWrite()
		var got []byte
		for part := make([]byte, 32<<10); ; time.Sleep(5 * time.Millisecond) {
			n, err := conn.Read(part)
			got = append(got, part[:n]...)
			if err != nil {
				if !errors.Is(err, io.EOF) || !bytes.Equal(got, data) {
					t.Errorf("the target got %d bytes, %v, want %d", len(got), err, len(data))
				}
				return
			}
		}
	})
	conn := c.mustDialTCP(targets(port)[0])
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	conn.Write(data)
	conn.CloseWrite()
	<-done
}

// rawClient sends single segments of one connection, and reads the answers.
type rawClient struct {
	t        *testing.T
	f        *Forwarder
	from, to netip.AddrPort
	seq, ack uint32
}

// newRawClient opens a connection to a port of this machine.
func newRawClient(t *testing.T, port uint16) *rawClient {
	t.Helper()
	f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := &rawClient{t: t, f: f, from: netip.AddrPortFrom(client4, 1000), to: targets(port)[0], seq: 100}
	r.deliver(r.segment(packet.SYN, nil))
	r.ack = binary.BigEndian.Uint32(r.receive()[24:]) + 1
	r.deliver(r.segment(packet.ACK, nil))
	return r
}

// segment returns a segment, and moves the sequence number behind it.
func (r *rawClient) segment(flags packet.TCPFlags, data []byte) []byte {
	raw := tcpSegment(r.from, r.to, r.seq, byte(flags), 1, data)
	tcp := raw[packet.HeaderSize(r.from.Addr()):]
	binary.BigEndian.PutUint32(tcp[8:], r.ack)
	tcp[16], tcp[17] = 0, 0
	binary.BigEndian.PutUint16(tcp[16:], packet.Checksum(tcp, packet.PseudoSum(r.from.Addr(), r.to.Addr(), packet.ProtoTCP, len(tcp))))
	r.seq += uint32(len(data))
	if flags&(packet.SYN|packet.FIN) != 0 {
		r.seq++
	}
	return raw
}

// deliver delivers segments in one batch.
func (r *rawClient) deliver(segments ...[]byte) { r.f.Deliver(segments, 0) }

// receive returns the next packet to the client.
func (r *rawClient) receive() []byte {
	r.t.Helper()
	var slab packet.Slab
	slab.Reset(make([]byte, 1<<17), 1)
	if err := r.f.Receive(&slab); err != nil {
		r.t.Fatal(err)
	}
	raw, _ := slab.Packet(0)
	return raw
}

// TestOwnStackResetAfterFIN: a client's reset loses what it sent before, which includes the end of its stream.
// The target must not take a part of the stream for all of it.
func TestOwnStackResetAfterFIN(t *testing.T) {
	got := make(chan error, 1)
	port := serveTCP(t, func(conn *net.TCPConn) {
		_, err := io.ReadAll(conn)
		got <- err
		conn.Close()
	})
	for range 20 {
		r := newRawClient(t, port)
		r.deliver(r.segment(packet.ACK, make([]byte, 1000)), r.segment(packet.ACK|packet.FIN, make([]byte, 1000)), r.segment(packet.RST, nil))
		if err := <-got; err == nil {
			t.Fatal("the target saw the end of a stream of which it may lack a part")
		}
	}
}

// TestOwnStackAnswerBeforeReset: a target answers, and closes although it has not read everything, so that its
// system sends a reset. The client gets the answer.
func TestOwnStackAnswerBeforeReset(t *testing.T) {
	c := newClient(t, nil)
	answer := bytes.Repeat([]byte("0123456789abcdef"), 32<<10/16) // less than the window that the target sees
	port := serveTCP(t, func(conn *net.TCPConn) {
		conn.Read(make([]byte, 1))
		conn.Write(answer)
		conn.Close()
	})
	for range 20 {
		conn := c.mustDialTCP(targets(port)[0])
		conn.Write(make([]byte, 100<<10))
		if got, _ := io.ReadAll(conn); !bytes.Equal(got, answer) {
			t.Fatalf("the client got %d bytes of %d", len(got), len(answer))
		}
		conn.Close()
	}
}
