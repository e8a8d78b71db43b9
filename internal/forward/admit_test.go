package forward

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/routes"
)

// admission decides by a switch, and records the questions and the rejections.
type admission struct {
	refuse, end atomic.Bool

	mu       sync.Mutex
	asked    []netip.AddrPort
	rejected []Refusal
}

func (a *admission) configure(c *Config) {
	c.Admit = func(_ uint8, _, target netip.AddrPort) Admission {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, target)
		return Admission{Refused: a.refuse.Load(), Rule: "the rule"}
	}
	c.StillAdmits = func(uint8, netip.Addr, netip.AddrPort) bool { return !a.end.Load() }
	c.Rejection = func(why Refusal, _ uint8, _, _ netip.AddrPort) []byte {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.rejected = append(a.rejected, why)
		return nil
	}
}

func (a *admission) count() (asked, rejected int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked), len(a.rejected)
}

// TestRefusedFlowsReachNothing delivers packets of flows that Admit refuses on every way: one datagram, fragments, a
// datagram that a peer router returned or relayed, a SYN and an echo request.
func TestRefusedFlowsReachNothing(t *testing.T) {
	v4, v6, udpPort := listenUDP(t)
	var connected atomic.Int32
	tcpPort := serveTCP(t, func(c *net.TCPConn) { connected.Add(1); c.Close() })
	for _, target := range targets(0) {
		t.Run(target.Addr().String(), func(t *testing.T) {
			a := new(admission)
			a.refuse.Store(true)
			c := newClientWithICMP(t, nil, a.configure)
			server, from := v4, netip.AddrPortFrom(client4, 1000)
			if target.Addr().Is6() {
				from = netip.AddrPortFrom(client6, 1000)
				if _, _, via := routes.Unvia(target.Addr()); !via {
					server = v6
				}
			}
			to := netip.AddrPortFrom(target.Addr(), udpPort)
			whole := wholePacket(from, to, 500)
			c.f.Deliver([][]byte{bytes.Clone(whole)}, 0)
			c.f.Deliver(fragments(wholePacket(from, to, 5000), 7), 0)
			c.f.DeliverUnclaimed(bytes.Clone(whole))
			if got := c.f.DeliverRelayed(bytes.Clone(whole)); got != RelayedUnknown {
				t.Errorf("relayed: %v, want RelayedUnknown", got)
			}
			if asked, rejected := a.count(); asked != 3 || rejected != 3 {
				t.Errorf("asked %d times, %d rejections, want 3", asked, rejected)
			}
			start := time.Now()
			if conn, err := c.dialTCP(netip.AddrPortFrom(target.Addr(), tcpPort)); err == nil {
				conn.Close()
				t.Error("a connection was opened")
			} else if time.Since(start) > 3*time.Second {
				t.Errorf("the client waited %v for the refusal", time.Since(start))
			}
			server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			defer server.SetReadDeadline(time.Now().Add(patience))
			if n, _, err := server.ReadFromUDP(make([]byte, 6000)); err == nil || connected.Load() > 0 {
				t.Errorf("a datagram of %d bytes or one of %d connections reached the target", n, connected.Load())
			}
			c.noFlows()
			for _, target := range a.asked {
				if routes.Target(target.Addr()) != target.Addr() {
					t.Errorf("asked about %v, which is not the target", target)
				}
			}
			for _, why := range a.rejected {
				if why != RefusedByAdmit {
					t.Errorf("rejected by %v", why)
				}
			}
		})
	}
}

// TestAdmittedFlowsStay: a decision counts for the life of a flow, unless StillAdmits takes it back.
func TestAdmittedFlowsStay(t *testing.T) {
	tcpPort := serveTCP(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	udpPort := serveUDPEcho(t)
	finished := make(chan Flow, 10)
	a := new(admission)
	c := newClient(t, func(cfg *Config) {
		a.configure(cfg)
		cfg.Finished = func(f Flow) { finished <- f }
	})
	target := targets(0)[0].Addr()
	conn, err := c.dialTCP(netip.AddrPortFrom(target, tcpPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	udp := c.dialUDP(netip.AddrPortFrom(target, udpPort))
	exchange := func(conn net.Conn) error {
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 10))
		return err
	}
	both := func(when string) {
		t.Helper()
		if err := exchange(conn); err != nil {
			t.Errorf("TCP %s: %v", when, err)
		}
		if err := exchange(udp); err != nil {
			t.Errorf("UDP %s: %v", when, err)
		}
	}
	both("admitted")
	a.refuse.Store(true)
	if n := c.f.Recheck(); n != 0 {
		t.Errorf("%d flows ended", n)
	}
	both("no longer admitted")
	relayed := wholePacket(netip.AddrPortFrom(client4, udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()), netip.AddrPortFrom(target, udpPort), 10)
	if got := c.f.DeliverRelayed(relayed); got != RelayedTaken {
		t.Errorf("a relayed packet of an open flow: %v", got)
	}
	a.end.Store(true)
	if n := c.f.Recheck(); n != 2 {
		t.Errorf("%d flows ended, want 2", n)
	}
	for range 2 {
		if f := <-finished; f.End != revoked || f.Rule != "the rule" {
			t.Errorf("finished %+v", f)
		}
	}
	if exchange(conn) == nil {
		t.Error("the connection still works")
	}
}
