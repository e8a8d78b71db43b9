package forward

import (
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestRelayedPacketsOpenNothing delivers each kind of packet that a peer router has no reason
// to relay, while a flow of the same client is open.
func TestRelayedPacketsOpenNothing(t *testing.T) {
	denied := netip.MustParseAddr("10.0.66.6")
	var dialed atomic.Int32
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target.Addr() == denied }
		cfg.Resolve = func(network string, target netip.AddrPort) (netip.AddrPort, error) {
			dialed.Add(1)
			return toLoopback(network, target)
		}
	})
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	target := targets(port)[0]
	conn := c.mustDialTCP(target)
	defer conn.Close()
	from := netip.MustParseAddrPort("100.64.0.2:4444")

	datagram := func(to netip.AddrPort) []byte {
		b := make([]byte, packet.HeaderSize(from.Addr())+packet.UDPHeader+3)
		packet.PutUDP(b, from, to)
		return b
	}
	echo := append(make([]byte, packet.IPv4Header), 8, 0, 0xf7, 0xff, 0, 0, 0, 0)
	packet.PutIP(echo, from.Addr(), target.Addr(), packet.ProtoICMP)
	sctp := make([]byte, packet.IPv4Header+12)
	packet.PutIP(sctp, from.Addr(), target.Addr(), 132)
	badSum := datagram(target)
	badSum[len(badSum)-1] ^= 1
	badSegment := tcpSegment(from, target, 1, 0x10, 1, []byte("x"))
	badSegment[len(badSegment)-1] ^= 1
	const syn, ack = 2, 16
	for name, tt := range map[string]struct {
		packet []byte
		want   Relayed
	}{
		"a segment to a denied address":  {tcpSegment(from, netip.AddrPortFrom(denied, port), 1, ack, 1, []byte("x")), RelayedRefused},
		"a datagram to a denied address": {datagram(netip.AddrPortFrom(denied, port)), RelayedRefused},
		"a SYN":                          {tcpSegment(from, target, 1, syn, 1, nil), RelayedRefused},
		"a segment of no connection":     {tcpSegment(from, target, 1, ack, 1, []byte("x")), RelayedReset},
		"a datagram of no flow":          {datagram(target), RelayedUnknown},
		"an echo request":                {echo, RelayedRefused},
		"a fragment":                     {fragments(wholePacket(from, target, 3000), 7)[0], RelayedRefused},
		"another protocol":               {sctp, RelayedRefused},
		"a wrong UDP checksum":           {badSum, RelayedRefused},
		"a wrong TCP checksum":           {badSegment, RelayedRefused},
		"a packet cut short":             {datagram(target)[:25], RelayedRefused},
		"nothing":                        {nil, RelayedRefused},
	} {
		before := dialed.Load()
		if got := c.f.DeliverRelayed(tt.packet); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
		if n := c.f.Active(); n != (Counts{TCP: 1}) {
			t.Errorf("%s: %v flows, want one of TCP", name, n)
		}
		if dialed.Load() != before {
			t.Errorf("%s: a target was dialed", name)
		}
	}
	for _, f := range fragments(wholePacket(from, target, 3000), 7) {
		c.f.DeliverRelayed(f)
	}
	if n := testutil.ToFloat64(c.f.account.opened[ICMP]); n > 0 {
		t.Errorf("%v echo requests were sent", n)
	}
	dice := rand.New(rand.NewPCG(1, 2))
	junk := make([]byte, 100)
	for range 20_000 {
		for i := range junk {
			junk[i] = byte(dice.Uint32())
		}
		junk[0] = []byte{0x45, 0x60, junk[0]}[dice.IntN(3)]
		c.f.DeliverRelayed(junk[:dice.IntN(len(junk))])
	}
	if n := c.f.Active(); n != (Counts{TCP: 1}) {
		t.Errorf("random packets opened flows: %v, want one of TCP", n)
	}
}
