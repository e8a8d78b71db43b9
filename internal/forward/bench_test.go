package forward

import (
	"log/slog"
	"net"
	"testing"

	"subnetrouter/internal/packet"
)

// These benchmarks measure the steps that each packet of a bulk transfer passes through. Compare
// runs of one machine only.

// benchBatch is the number of packets in a batch of WireGuard's under load.
const benchBatch = 32

func benchForwarder(b *testing.B) *Forwarder {
	b.Helper()
	f, err := New(Config{Logger: slog.New(slog.DiscardHandler), Resolve: toLoopback})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

// BenchmarkDeliverUDP delivers a batch of datagrams of one flow to a socket that nothing reads.
func BenchmarkDeliverUDP(b *testing.B) {
	target, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer target.Close()
	f := benchForwarder(b)
	dst := targets(target.LocalAddr().(*net.UDPAddr).AddrPort().Port())[0]
	var batch [][]byte
	for range benchBatch {
		batch = append(batch, wholePacket(client4Port, dst, 1200))
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Deliver(batch, 0)
	}
}

// BenchmarkDeliverPing delivers a batch of echo replies, which are parsed and dropped.
func BenchmarkDeliverPing(b *testing.B) {
	f := benchForwarder(b)
	raw := wholePacket(client4Port, targets(80)[0], 56)
	raw[9] = packet.ProtoICMP
	raw[packet.IPv4Header] = 0
	var batch [][]byte
	for range benchBatch {
		batch = append(batch, raw)
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Deliver(batch, 0)
	}
}
