package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func counterValue(c prometheus.Counter) uint64 { return uint64(testutil.ToFloat64(c)) }

// sumsOverRoutes checks that the total of each kind of failure is the sum over the routes.
func sumsOverRoutes(t *testing.T, f *Forwarder) {
	t.Helper()
	routes := []*route{f.routes.other}
	f.routes.mu.Lock()
	for _, r := range f.routes.series {
		routes = append(routes, r)
	}
	f.routes.mu.Unlock()
	for _, reason := range reasons {
		total, byRoute := uint64(0), uint64(0)
		for protocol := range protocolCount {
			total += counterValue(f.account.failed[protocol][reason])
		}
		for _, r := range routes {
			byRoute += counterValue(r.failed[reason])
		}
		if total != byRoute {
			t.Errorf("%s: %d failures in total, but %d over the routes", reason, total, byRoute)
		}
	}
}

// segmentFrom returns a TCP segment as a client sends it.
func segmentFrom(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32) []byte {
	h := packet.HeaderSize(src.Addr())
	raw := make([]byte, h+header.TCPMinimumSize)
	packet.PutIP(raw, src.Addr(), dst.Addr(), packet.ProtoTCP)
	segment := raw[h:]
	header.TCP(segment).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535,
	})
	binary.BigEndian.PutUint16(segment[16:], 0)
	binary.BigEndian.PutUint16(segment[16:], packet.Checksum(segment, packet.PseudoSum(src.Addr(), dst.Addr(), packet.ProtoTCP, len(segment))))
	return raw
}

// echoRequest returns an echo request as a client sends it.
func echoRequest(src, dst netip.Addr, seq uint16, size int) []byte {
	h := packet.HeaderSize(src)
	raw := make([]byte, h+packet.ICMPHeader+size)
	message := raw[h:]
	protocol, sum := uint8(packet.ProtoICMP), uint64(0)
	message[0] = 8
	if src.Is6() {
		protocol, sum = packet.ProtoICMPv6, packet.PseudoSum(src, dst, packet.ProtoICMPv6, len(message))
		message[0] = 128
	}
	binary.BigEndian.PutUint16(message[4:], 77)
	binary.BigEndian.PutUint16(message[6:], seq)
	binary.BigEndian.PutUint16(message[2:], packet.Checksum(message, sum))
	packet.PutIP(raw, src, dst, protocol)
	return raw
}

// dropped returns the counts by reason.
func dropped(f *Forwarder) map[string]uint64 {
	out := map[string]uint64{}
	for reason, name := range dropNames {
		if n := f.drops.count(dropReason(reason)); n > 0 {
			out[name] = n
		}
	}
	return out
}

// within fails the test if f takes longer than it would on any loaded machine.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s did not return", what)
	}
}

// TestDeliveryDoesNotWaitForTheTailnet delivers packets that are answered at once while nothing
// reads packets to the tailnet: the answers that do not fit the queue are counted.
func TestDeliveryDoesNotWaitForTheTailnet(t *testing.T) {
	f, err := New(Config{
		Logger: slog.New(slog.DiscardHandler), MaxFlows: 1,
		Resolve: func(string, netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, syscall.EHOSTUNREACH },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer within(t, "closing", func() { f.Close() })
	for f.link.offer(new(packetBuffer)) {
	}
	const each = 2 * (maxQueued + maxQueuedReplies)
	for i, src := range []netip.Addr{client4, client6} {
		from, to := netip.AddrPortFrom(src, 5000), targets(80)[i]
		odd := wholePacket(from, to, 10)
		packet.PutIP(odd, src, to.Addr(), 132)
		for name, raw := range map[string][]byte{
			"a segment of no connection": segmentFrom(from, to, header.TCPFlagAck, 1, 1),
			"a datagram":                 wholePacket(from, to, 10),
			"another protocol":           odd,
		} {
			before := f.drops.count(dropLinkFull)
			within(t, "delivering "+name, func() {
				for range each {
					f.Deliver([][]byte{raw}, 0)
				}
			})
			if got := f.drops.count(dropLinkFull) - before; got < each-maxQueuedReplies || got > each {
				t.Errorf("%v: %s was answered %d times, of which %d were counted as dropped", src, name, each, got)
			}
			within(t, "prohibiting "+name, func() { f.Prohibit(raw) })
		}
	}
}

// stuck is a log handler whose output blocks below level Info.
type stuck struct {
	slog.Handler
	until chan struct{}
}

func (stuck) Enabled(context.Context, slog.Level) bool { return true }
func (h stuck) Handle(_ context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		<-h.until
	}
	return nil
}

// TestDataPathDoesNotWaitForItsLog opens flows that fail while the log is blocked.
func TestDataPathDoesNotWaitForItsLog(t *testing.T) {
	until := make(chan struct{})
	defer close(until)
	f, err := New(Config{
		Logger:  slog.New(stuck{slog.DiscardHandler, until}),
		Resolve: func(string, netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, syscall.EHOSTUNREACH },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer within(t, "closing", func() { f.Close() })
	for i := range 3 * maxQueuedLines {
		within(t, "delivering", func() {
			f.Deliver([][]byte{
				wholePacket(netip.AddrPortFrom(client4, uint16(1000+i)), targets(80)[0], 10),
				segmentFrom(netip.AddrPortFrom(client4, uint16(1000+i)), targets(80)[0], header.TCPFlagSyn, 1, 0),
			}, 0)
		})
	}
	waitFor(t, "every failure to be counted", func() bool {
		return counterValue(f.account.failed[UDP][unreachable]) == 3*maxQueuedLines &&
			counterValue(f.account.failed[TCP][unreachable]) == 3*maxQueuedLines
	})
	sumsOverRoutes(t, f)
}

// TestAcceptFailureIsCountedByRoute: a client sends a SYN and does not complete the handshake.
func TestAcceptFailureIsCountedByRoute(t *testing.T) {
	c := newClient(t, nil)
	c.f.SetRoutes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")})
	port := serveTCP(t, func(conn *net.TCPConn) { conn.Close() })
	to := targets(port)[0]
	c.f.Deliver([][]byte{segmentFrom(client4Port, to, header.TCPFlagSyn, 1000, 0)}, 0)
	// The client's stack has no such connection, and resets it.
	waitFor(t, "the failure to be counted", func() bool { return counterValue(c.f.account.failed[TCP][other]) == 1 })
	sumsOverRoutes(t, c.f)
	c.noFlows()
}

func TestDialFailureReasons(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ECONNREFUSED: refused, syscall.EHOSTUNREACH: unreachable, syscall.ENETUNREACH: unreachable, syscall.ENETDOWN: unreachable,
		syscall.EAGAIN: exhausted, syscall.EMFILE: exhausted, syscall.ENFILE: exhausted, syscall.EADDRNOTAVAIL: exhausted,
		syscall.EADDRINUSE: exhausted, syscall.ENOBUFS: exhausted, syscall.ENOMEM: exhausted, syscall.ENOSPC: exhausted,
		syscall.ETIMEDOUT: timedOut, syscall.EPERM: other, io.ErrUnexpectedEOF: other,
	} {
		wrapped := &net.OpError{Op: "dial", Err: err}
		if got := dialFailure(wrapped); got != want {
			t.Errorf("dialFailure(%v) = %s, want %s", err, got, want)
		}
	}
}

// TestEveryDropIsCounted delivers a packet of each kind that is dropped.
func TestEveryDropIsCounted(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	f, err := New(Config{Logger: slog.New(slog.DiscardHandler), Registerer: reg, Resolve: toLoopback})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	to := targets(9)[0]
	datagram := wholePacket(client4Port, to, 100)
	broken := func(raw []byte, at int) []byte {
		raw = bytes.Clone(raw)
		raw[at]++
		return raw
	}
	as := func(raw []byte, protocol uint8) []byte {
		raw = bytes.Clone(raw)
		packet.PutIP(raw, client4, to.Addr(), protocol)
		return raw
	}
	parts := fragments(wholePacket(netip.AddrPortFrom(client4, 5000), targets(80)[familyOf(client4)], 3000), 1)
	tcpParts := fragments(wholePacket(netip.AddrPortFrom(client4, 5000), targets(80)[familyOf(client4)], 3000), 2)
	tcpParts[0][9] = packet.ProtoTCP
	odd := bytes.Clone(parts[0][:len(parts[0])-4])
	binary.BigEndian.PutUint16(odd[2:], uint16(len(odd)))
	ping := echoRequest(client4, to.Addr(), 1, 20)
	reply := bytes.Clone(ping)
	reply[packet.IPv4Header] = 0
	for _, tc := range []struct {
		name   string
		packet []byte
		reason dropReason
	}{
		{"nothing", nil, dropMalformed},
		{"half a header", datagram[:19], dropMalformed},
		{"less than its length", datagram[:50], dropMalformed},
		{"no version", broken(datagram, 0)[:1], dropMalformed},
		{"UDP longer than its packet", broken(datagram, packet.IPv4Header+4), dropMalformed},
		{"an ICMP message without its header", as(datagram[:packet.IPv4Header+4], packet.ProtoICMP), dropMalformed},
		{"a segment without its header", as(datagram[:packet.IPv4Header+10], packet.ProtoTCP), dropMalformed},
		{"a wrong UDP checksum", broken(datagram, 60), dropChecksum},
		{"a wrong TCP checksum", broken(segmentFrom(client4Port, to, header.TCPFlagAck, 1, 1), packet.IPv4Header+4), dropChecksum},
		{"a wrong ICMP checksum", broken(ping, packet.IPv4Header+10), dropChecksum},
		{"an echo reply", reply, dropUnsupported},
		{"SCTP", as(datagram, 132), dropUnsupported},
		{"a fragment of TCP", tcpParts[0], dropUnsupported},
		{"a fragment of odd length", odd, dropFragmentMalformed},
	} {
		before := f.drops.count(tc.reason)
		f.Deliver([][]byte{tc.packet}, 0)
		if got := f.drops.count(tc.reason) - before; got != 1 {
			t.Errorf("%s: counted %d times as %s; %v", tc.name, got, dropNames[tc.reason], dropped(f))
		}
	}
	total := uint64(0)
	for reason := range dropNames {
		total += f.drops.count(dropReason(reason))
	}
	if total != 14 {
		t.Errorf("%d drops were counted, want one for each of 14 packets: %v", total, dropped(f))
	}
	// Every reason has its series from the start.
	if n, err := testutil.GatherAndCount(reg, "router_dropped_packets_total"); err != nil || n != len(dropNames) {
		t.Errorf("%d series, %v; want %d", n, err, len(dropNames))
	}
	for reason, name := range dropNames {
		if name == "" {
			t.Errorf("reason %d has no name", reason)
		}
	}
}

// TestFragmentsDoNotHideTheirPort: the deny list is checked again when a datagram is complete,
// because not every fragment has the port.
func TestFragmentsDoNotHideTheirPort(t *testing.T) {
	f, err := New(Config{
		Logger: slog.New(slog.DiscardHandler), Resolve: toLoopback,
		Deny: func(to netip.AddrPort) bool { return to.Port() == 80 },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, src := range []netip.Addr{client4, client6} {
		f.Deliver(fragments(wholePacket(netip.AddrPortFrom(src, 5000), targets(80)[familyOf(src)], 3000), 1), 0)
	}
	if udp := f.Active()[UDP]; udp != 0 || counterValue(f.rules.denied) != 2 || len(f.link.replies) != 2 {
		t.Errorf("%d flows, %d datagrams denied, %d answers; want 0, 2, 2", udp, counterValue(f.rules.denied), len(f.link.replies))
	}
}
