package forward

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestFirstDatagramsAtOnce delivers the first datagrams of a flow on several goroutines, as
// when a peer router returns them: they must be one flow, with one socket.
func TestFirstDatagramsAtOnce(t *testing.T) {
	v4, _, port := listenUDP(t)
	go func() {
		buf := make([]byte, 100)
		for {
			if _, _, err := v4.ReadFromUDP(buf); err != nil {
				return
			}
		}
	}()
	c := newClient(t, nil)
	to := targets(port)[0]
	const rounds, workers = 200, 8
	for round := range rounds {
		datagram := wholePacket(netip.AddrPortFrom(client4, uint16(20000+round)), to, 10)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range workers {
			wg.Go(func() { <-start; c.f.DeliverUnclaimed(datagram) })
		}
		close(start)
		wg.Wait()
	}
	if n := testutil.ToFloat64(c.f.account.opened[UDP]); n != rounds {
		t.Errorf("%v flows were opened, want %d", n, rounds)
	}
	if udp := c.f.Active()[UDP]; udp != rounds {
		t.Errorf("%d flows are open, want %d", udp, rounds)
	}
	c.f.Cut()
	c.noFlows()
}

// TestRulesChangeWhileOpening revokes a rule after it was checked and before the flow is in its
// table, where Recheck would find it.
func TestRulesChangeWhileOpening(t *testing.T) {
	v4, _, port := listenUDP(t)
	defer v4.Close()
	tcpPort := serveTCP(t, func(conn *net.TCPConn) { conn.Close() })
	var asked atomic.Int32
	c := newClient(t, func(cfg *Config) {
		cfg.Allow = func(uint8, netip.Addr, netip.AddrPort) bool { return asked.Add(1) == 1 }
	})
	c.f.Deliver([][]byte{wholePacket(netip.AddrPortFrom(client4, 20000), targets(port)[0], 10)}, 0)
	if udp := c.f.Active()[UDP]; udp != 0 {
		t.Errorf("%d UDP flows are open, want none", udp)
	}
	asked.Store(0)
	if conn, err := c.dialTCP(targets(tcpPort)[0]); err == nil {
		buf := make([]byte, 1)
		if _, err := conn.Read(buf); err == nil {
			t.Error("the connection is still open")
		}
		conn.Close()
	}
	c.noFlows()
}
