package forward

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/routes"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// denyPort denies one port of the host, which the tests reach by three addresses.
func denyPort(port uint16) func(*Config) {
	return func(c *Config) {
		c.Deny = func(target netip.AddrPort) bool {
			if routes.Target(target.Addr()) != target.Addr() {
				panic("asked about " + target.String() + ", which is not the target")
			}
			return target.Port() == port && !target.Addr().IsLoopback()
		}
	}
}

// TestDeniedTargetIsNotReached delivers packets for a denied target that the packet hook did
// not see: one datagram, fragments, a datagram relayed by a peer router, and a SYN.
func TestDeniedTargetIsNotReached(t *testing.T) {
	v4, v6, udpPort := listenUDP(t)
	tcpPort := serveTCP(t, func(c *net.TCPConn) { c.Write([]byte("reached")); c.Close() })
	for _, target := range targets(0) {
		t.Run(target.Addr().String(), func(t *testing.T) {
			c := newClientWithICMP(t, nil, denyPort(udpPort))
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
			if got := c.f.DeliverRelayed(bytes.Clone(whole)); got != RelayedRefused {
				t.Errorf("relayed: %v, want RelayedRefused", got)
			}
			server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			defer server.SetReadDeadline(time.Now().Add(patience))
			if n, _, err := server.ReadFromUDP(make([]byte, 6000)); err == nil {
				t.Errorf("a datagram of %d bytes reached the denied port", n)
			}
			if udp := c.f.Active()[UDP]; udp != 0 {
				t.Errorf("%d flows were opened", udp)
			}
			if n := testutil.ToFloat64(c.f.rules.denied); n != 4 {
				t.Errorf("%v packets are counted as denied, want 4", n)
			}
		})
		t.Run(target.Addr().String()+" TCP", func(t *testing.T) {
			c := newClientWithICMP(t, nil, denyPort(tcpPort))
			if conn, err := c.dialTCP(netip.AddrPortFrom(target.Addr(), tcpPort)); err == nil {
				conn.Close()
				t.Error("a connection to the denied port was opened")
			}
			if testutil.ToFloat64(c.f.rules.denied) == 0 {
				t.Error("nothing is counted as denied")
			}
			c.noFlows()
		})
	}
}

// TestDeniedAddressIsNotDialed resolves a target to an address on the deny list.
func TestDeniedAddressIsNotDialed(t *testing.T) {
	v4, _, port := listenUDP(t)
	tcpPort := serveTCP(t, func(c *net.TCPConn) { c.Write([]byte("reached")); c.Close() })
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target.Addr().IsLoopback() }
	})
	c.dialUDP(targets(port)[0]).Write([]byte("hello"))
	if conn, err := c.dialTCP(targets(tcpPort)[0]); err == nil {
		conn.Close()
		t.Error("a connection to the denied address was opened")
	}
	v4.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, _, err := v4.ReadFromUDP(make([]byte, 100)); err == nil {
		t.Errorf("a datagram of %d bytes reached the denied address", n)
	}
	waitFor(t, "both to be counted", func() bool { return testutil.ToFloat64(c.f.rules.denied) == 2 })
	c.noFlows()
}

// TestDenialIsReported: one rejection for each datagram to a denied target and each SYN, on any
// way that the packet arrives, and none for other segments, other refusals and allowed flows.
func TestDenialIsReported(t *testing.T) {
	_, _, port := listenUDP(t)
	for i, target := range targets(port) {
		from := netip.AddrPortFrom([]netip.Addr{client4, client6, client6}[i], 1000)
		type rejected struct {
			why         Refusal
			protocol    uint8
			client, dst netip.AddrPort
		}
		got := make(chan rejected, 10)
		message := wholePacket(target, from, 4) // any packet to the client
		c := newClientWithICMP(t, nil, func(cfg *Config) {
			denyPort(port)(cfg)
			cfg.Rejection = func(why Refusal, protocol uint8, client, dst netip.AddrPort) []byte {
				got <- rejected{why, protocol, client, dst}
				return message
			}
		})
		segment := func(to netip.AddrPort, flags packet.TCPFlags) []byte {
			return tcpSegment(from, to, 1, byte(flags), 1, nil)
		}
		next := func() rejected {
			t.Helper()
			select {
			case r := <-got:
				return r
			case <-time.After(patience):
				t.Fatalf("%v: no rejection", target)
				panic("unreachable")
			}
		}
		for name, deliver := range map[string]func([]byte){
			"by the hook":  c.f.Prohibit,
			"by the table": func(raw []byte) { c.f.Deliver([][]byte{raw}, 0) },
		} {
			deliver(wholePacket(from, target, 10))
			if r := next(); r != (rejected{RefusedByDenyList, packet.ProtoUDP, from, target}) {
				t.Errorf("%s: got %v", name, r)
			}
			deliver(segment(target, packet.SYN))
			if r := next(); r != (rejected{RefusedByDenyList, packet.ProtoTCP, from, target}) {
				t.Errorf("%s: got %v", name, r)
			}
		}
		c.f.Prohibit(segment(target, packet.ACK))
		refused := netip.AddrPortFrom(target.Addr(), 1) // nothing listens
		c.f.Deliver([][]byte{wholePacket(from, refused, 10)}, 0)
		if _, err := c.dialTCP(refused); err == nil {
			t.Errorf("connected to %v", refused)
		}
		if len(got) > 0 {
			t.Errorf("%v: got %v without a denial", target, <-got)
		}
	}
}
