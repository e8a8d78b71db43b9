package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// connect returns the client's end of a connection that s serves, and a channel that closes when it no
// longer does.
func connect(ctx context.Context, s *Server, client netip.AddrPort) (net.Conn, <-chan struct{}) {
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.ServeTCP(ctx, theirs, client)
	}()
	return ours, ended
}

func counts(s *Server) (connections, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections, s.waiting
}

func frame(q *dns.Msg) []byte {
	b := pack(q)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// TestTCP: many queries on one connection are answered as soon as each answer is there.
func TestTCP(t *testing.T) {
	bubble(t, func(t *testing.T) {
		quick, slow := records(`quick.example.com. 60 IN A 10.0.0.1`), after(200*time.Millisecond, records(`slow.example.com. 60 IN A 10.0.0.2`))
		r := &resolver{respond: func(network string, q *dns.Msg) []response {
			if q.Question[0].Name == "slow.example.com." {
				return slow(network, q)
			}
			return quick(network, q)
		}}
		conn, ended := connect(t.Context(), start(t, r, nil), alice)
		begun := time.Now()
		go func() {
			conn.Write(frame(newQuery("slow.example.com", "A")))
			both := append(frame(newQuery("quick.example.com", "A")), frame(newQuery("quick.example.com", "A"))...)
			conn.Write(both[:5])
			time.Sleep(time.Millisecond)
			conn.Write(both[5:])
		}()
		for _, want := range []string{"NOERROR; quick.example.com. 60 A 10.0.0.1", "NOERROR; quick.example.com. 60 A 10.0.0.1", "NOERROR; slow.example.com. 60 A 10.0.0.2"} {
			expect(t, receive(t, conn), want)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(begun) != tcpIdle+time.Millisecond {
			t.Errorf("an idle connection ended with %v after %v", err, time.Since(begun))
		}
		<-ended
	})
}

func receive(t *testing.T, conn net.Conn) *dns.Msg {
	t.Helper()
	b, err := readFrame(conn)
	m := new(dns.Msg)
	if err == nil {
		err = m.Unpack(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestTCPEnds: each way in which a connection ends, and that nothing is left, which synctest checks.
func TestTCPEnds(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(t *testing.T, conn net.Conn, cancel func())
		most time.Duration
	}{
		{"the client leaves", func(_ *testing.T, conn net.Conn, _ func()) { conn.Close() }, 0},
		{"the client leaves in a query", func(_ *testing.T, conn net.Conn, _ func()) { conn.Write([]byte{0, 30, 1}); conn.Close() }, 0},
		{"a query is not completed", func(_ *testing.T, conn net.Conn, _ func()) { conn.Write([]byte{0, 30, 1}) }, tcpMessage},
		{"an empty message", func(_ *testing.T, conn net.Conn, _ func()) { conn.Write([]byte{0, 0}) }, 0},
		{"the server stops", func(_ *testing.T, _ net.Conn, cancel func()) { cancel() }, 0},
		{"the server stops while clients wait", func(_ *testing.T, conn net.Conn, cancel func()) {
			conn.Write(frame(newQuery("www.example.com", "A")))
			synctest.Wait()
			cancel()
		}, askWithin},
		{"the client does not read", func(_ *testing.T, conn net.Conn, _ func()) {
			for range 100 {
				conn.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := conn.Write(frame(newQuery("www.example.com", "AXFR"))); err != nil {
					return
				}
			}
		}, 2 * tcpMessage},
		{"a response instead of a query", func(t *testing.T, conn net.Conn, _ func()) {
			for range 2 * maxPipelined {
				conn.Write(frame(newQuery("www.example.com", "A", func(q *dns.Msg) { q.Response = true })))
			}
			conn.Write(frame(newQuery("www.example.com", "AXFR")))
			expect(t, receive(t, conn), "REFUSED")
			conn.Close()
		}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				s := start(t, &resolver{respond: silent}, nil)
				conn, ended := connect(ctx, s, alice)
				begun := time.Now()
				c.do(t, conn, cancel)
				<-ended
				if took := time.Since(begun); took > c.most+time.Second {
					t.Errorf("the connection ended after %v", took)
				}
				conn.Close()
				time.Sleep(askWithin)
				if connections, waiting := counts(s); connections != 0 || waiting != 0 {
					t.Errorf("%d connections and %d queries are left", connections, waiting)
				}
			})
		})
	}
}

// TestTCPPipelining: a connection has a bounded number of queries that wait.
func TestTCPPipelining(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: silent}
		s := start(t, r, nil)
		conn, ended := connect(t.Context(), s, alice)
		sent := 0
		for conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
			if _, err := conn.Write(frame(newQuery(fmt.Sprintf("n%d.example.com", sent), "A"))); err != nil {
				break
			}
			sent++
		}
		if _, waiting := counts(s); waiting != maxPipelined || sent > maxPipelined+1 {
			t.Errorf("%d of %d queries wait, want %d", waiting, sent, maxPipelined)
		}
		conn.Close()
		<-ended
	})
}

// TestTCPConnectionsAreBounded: a node has a share of them.
func TestTCPConnectionsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := start(t, &resolver{respond: silent}, func(cfg *Config) { cfg.Limits = Limits{Connections: 3, PeerConnections: 2} })
		open := func(client netip.AddrPort, want bool) {
			t.Helper()
			_, ended := connect(t.Context(), s, client)
			synctest.Wait()
			select {
			case <-ended:
				if want {
					t.Error("the connection was refused")
				}
			default:
				if !want {
					t.Error("the connection was not refused")
				}
			}
		}
		open(alice, true)
		open(alice, true)
		open(alice, false)
		open(bob, true)
		open(bob, false)
		time.Sleep(tcpIdle)
		synctest.Wait()
		open(alice, true)
	})
}
