package forward

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

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
