package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// sockets is a resolver on real sockets of one port.
type sockets struct {
	udp   *net.UDPConn
	other *net.UDPConn // of another port
	tcp   net.Listener

	mu    sync.Mutex
	ports map[int]bool // from which it was asked over UDP
}

func listen(t *testing.T) *sockets {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	s := &sockets{ports: map[int]bool{}}
	var err error
	if s.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: loopback}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.udp.Close() })
	if s.other, err = net.ListenUDP("udp4", &net.UDPAddr{IP: loopback}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.other.Close() })
	if s.tcp, err = net.Listen("tcp4", s.udp.LocalAddr().String()); err != nil {
		t.Skipf("the port is taken: %v", err)
	}
	t.Cleanup(func() { s.tcp.Close() })
	return s
}

func (s *sockets) dial(ctx context.Context, network string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, s.udp.LocalAddr().String())
}

// serve answers over UDP until the socket closes: from another port first, with another address.
func (s *sockets) serve(zone ...string) {
	buf := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFromUDP(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.ports[from.Port] = true
		s.mu.Unlock()
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) != nil {
			continue
		}
		m := lookUp(q, []string{`www.example.com. 0 IN A 10.66.66.66`})
		s.other.WriteToUDP(pack(m), from)
		m = lookUp(q, zone)
		if m.Truncated = len(m.Answer) > 10; m.Truncated {
			m.Answer = m.Answer[:10]
		}
		s.udp.WriteToUDP(pack(m), from)
	}
}

// TestSockets: each question leaves from another port, and a message from another port is not an answer.
func TestSockets(t *testing.T) {
	up := listen(t)
	go up.serve(`www.example.com. 0 IN A 10.0.0.1`)
	s, err := New(Config{Dial: up.dial, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 50 {
		expect(t, ask(t, s, alice, "www.example.com", "A"), "NOERROR; www.example.com. 0 A 10.0.0.1")
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if len(up.ports) < 40 {
		t.Errorf("50 questions came from %d ports", len(up.ports))
	}
}

// TestTruncatedSockets: a truncated answer is asked for over TCP.
func TestTruncatedSockets(t *testing.T) {
	up := listen(t)
	var zone []string
	for i := range 100 {
		zone = append(zone, "www.example.com. 60 IN A 10.0.0."+string(rune('1'+i%9)))
	}
	go up.serve(zone...)
	go func() {
		conn, err := up.tcp.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		msg, err := readFrame(conn)
		q := new(dns.Msg)
		if err == nil && q.Unpack(msg) == nil {
			writeFrame(conn, pack(lookUp(q, zone)))
		}
	}()
	s, err := New(Config{Dial: up.dial, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := new(dns.Msg)
	if err := m.Unpack(s.Serve(t.Context(), alice, true, pack(newQuery("www.example.com", "A")))); err != nil || len(m.Answer) != 100 || m.Truncated {
		t.Errorf("%d answers, TC %v, %v", len(m.Answer), m.Truncated, err)
	}
}

// TestClosedPort: a port that nothing listens on is a failure without waiting, once all tries were made.
func TestClosedPort(t *testing.T) {
	up := listen(t)
	up.udp.Close()
	up.tcp.Close()
	s, err := New(Config{Dial: up.dial, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	begun := time.Now()
	_, err = s.upstream.try(t.Context(), "udp", key{name: "www.example.com.", qtype: dns.TypeA})
	if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(begun) > time.Second {
		t.Errorf("a try ended after %v with %v", time.Since(begun), err)
	}
}
