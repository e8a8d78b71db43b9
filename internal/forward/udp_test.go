package forward

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

func TestUDPEchoOfAllSizes(t *testing.T) {
	c := newClient(t, nil)
	port := serveUDPEcho(t)
	for _, target := range targets(port) {
		conn := c.dialUDP(target)
		// Around the MTU, and far above it: fragments in both directions.
		for _, size := range []int{0, 1, 500, 1212, 1231, 1232, 1233, 1251, 1252, 1253, 5000, 30000} {
			sent := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := conn.Write(sent); err != nil {
				t.Fatalf("%v: sending %d bytes: %v", target, size, err)
			}
			got := make([]byte, 65536)
			n, err := conn.Read(got)
			if err != nil || !bytes.Equal(got[:n], sent) {
				t.Fatalf("%v: sent %d bytes, got %d, %v", target, size, n, err)
			}
		}
	}
	if udp := c.f.Active()[UDP]; udp != 3 {
		t.Errorf("%d flows, want one for each target", udp)
	}
}

func TestUDPAnswersOnlyFromTarget(t *testing.T) {
	c := newClient(t, nil)
	server, _, port := listenUDP(t)
	conn := c.dialUDP(targets(port)[0])
	conn.Write([]byte("ping"))
	buf := make([]byte, 1500)
	n, from, err := server.ReadFromUDP(buf)
	if err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("server read %q, %v", buf[:n], err)
	}
	stranger, err := net.DialUDP("udp", nil, from)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	stranger.Write([]byte("from a stranger"))
	server.WriteTo([]byte("pong"), from)
	if n, err = conn.Read(buf); err != nil || string(buf[:n]) != "pong" {
		t.Errorf("client read %q, %v; want only the target's answer", buf[:n], err)
	}
}

func TestUDPPortUnreachable(t *testing.T) {
	a, b, port := listenUDP(t)
	a.Close()
	b.Close()
	c := newClient(t, nil)
	for _, target := range targets(port) {
		conn := c.dialUDP(target)
		conn.Write([]byte("anybody?"))
		c.awaitPortUnreachable(conn, target)
	}
}

// TestUDPRunsKeepEveryDatagram delivers batches with runs of one size, changes of size, and
// several flows, and expects each datagram once and in order.
func TestUDPRunsKeepEveryDatagram(t *testing.T) {
	c := newClient(t, nil)
	v4, _, port := listenUDP(t)
	sizes := []int{100, 100, 100, 100, 60, 100, 100, 200, 200, 199, 1, 1, 1, 0, 5, 1200, 1200, 1200}
	const flows = 3
	var vector [][]byte
	for i, size := range sizes {
		for flow := range flows {
			payload := make([]byte, max(size, 2))
			payload[0], payload[1] = byte(flow), byte(i)
			raw := make([]byte, packet.IPv4Header+packet.UDPHeader+len(payload))
			copy(raw[packet.IPv4Header+packet.UDPHeader:], payload)
			packet.PutUDP(raw, netip.AddrPortFrom(client4, uint16(5000+flow)), targets(port)[0])
			vector = append(vector, raw)
		}
		if i%7 == 6 {
			c.f.Deliver(vector, 0)
			vector = nil
		}
	}
	c.f.Deliver(vector, 0)
	next := [flows]int{}
	buf := make([]byte, 2000)
	for range len(sizes) * flows {
		n, err := v4.Read(buf)
		if err != nil {
			t.Fatalf("after %v: %v", next, err)
		}
		flow, i := int(buf[0]), int(buf[1])
		if i != next[flow] || n != max(sizes[i], 2) {
			t.Fatalf("flow %d: datagram %d of %d bytes, want number %d of %d", flow, i, n, next[flow], max(sizes[next[flow]], 2))
		}
		next[flow]++
	}
}

func TestDNSFlowsEndWithTheirAnswers(t *testing.T) {
	v4, _, port := listenUDP(t)
	c := newClient(t, func(cfg *Config) {
		cfg.Resolve = func(_ string, target netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), nil
		}
	})
	conn := c.dialUDP(targets(dnsPort)[0])
	buf := make([]byte, 512)
	// Two queries are pending; the flow stays until both have their answer.
	conn.Write([]byte("1 query"))
	conn.Write([]byte("2 query"))
	for i := range 2 {
		n, from, err := v4.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if udp := c.f.Active()[UDP]; udp != 1 {
			t.Fatalf("%d flows before answer %d", udp, i+1)
		}
		v4.WriteTo(buf[:n], from)
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(conn *gonet.UDPConn) (from net.Addr) {
		t.Helper()
		conn.Write([]byte("query"))
		n, from, err := v4.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		v4.WriteTo(buf[:n], from)
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
		return from
	}
	// A client socket that sends another query soon keeps its flow, and later gets a new
	// one.
	first := ask(conn)
	if again := ask(conn); again.String() != first.String() {
		t.Errorf("queries from %v, then from %v", first, again)
	}
	c.noFlows()
	ask(conn)
	c.noFlows()
}

// TestDNSAnswersAreAwaited: a forwarding resolver may answer late, and its answer still
// arrives; after it, the flow ends soon.
func TestDNSAnswersAreAwaited(t *testing.T) {
	v4, _, port := listenUDP(t)
	c := newClient(t, func(cfg *Config) {
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), nil
		}
	})
	conn := c.dialUDP(targets(dnsPort)[0])
	conn.Write([]byte("query"))
	buf := make([]byte, 512)
	n, from, err := v4.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	c.f.udp().sweep(time.Now().Add(29 * time.Second))
	v4.WriteTo(buf[:n], from)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(buf); err != nil {
		t.Fatalf("an answer after 29 s was lost: %v", err)
	}
	waitFor(t, "the end of the answered flow", func() bool { udp := c.f.Active()[UDP]; return udp == 0 })

	conn.Write([]byte("query"))
	if _, _, err := v4.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	c.f.udp().sweep(time.Now().Add(31 * time.Second))
	c.noFlows()
}

// TestDNSFromNewPorts: a client's next query, from any port, uses the socket of its answered
// flow. Other clients' queries do not, and the socket is not used for long.
func TestDNSFromNewPorts(t *testing.T) {
	v4, _, port := listenUDP(t)
	c := newClient(t, func(cfg *Config) {
		cfg.Resolve = func(_ string, target netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), nil
		}
	})
	target, other := targets(dnsPort)[0], netip.MustParseAddrPort("10.0.3.5:53")
	neighbour := netip.MustParseAddr("100.64.0.3")
	c.addAddress(neighbour)
	buf, id := make([]byte, 512), uint16(0)
	ask := func(client netip.Addr, target netip.AddrPort) (answer func(), seen string) {
		t.Helper()
		conn := c.dialUDPFrom(&tcpip.FullAddress{NIC: 1, Addr: tcpipAddr(client)}, target)
		id++
		query := string(binary.BigEndian.AppendUint16(nil, id)) + conn.LocalAddr().String()
		conn.Write([]byte(query))
		n, from, err := v4.ReadFrom(buf)
		if err != nil || string(buf[:n]) != query {
			t.Fatalf("%q arrived, error %v; want %q", buf[:n], err, query)
		}
		return func() {
			t.Helper()
			defer conn.Close()
			// A server may answer twice; no other flow must get the second answer.
			for range 2 {
				v4.WriteTo([]byte(query), from)
			}
			if n, err := conn.Read(buf); err != nil || string(buf[:n]) != query {
				t.Fatalf("%q read %q, error %v", query, buf[:n], err)
			}
		}, from.String()
	}
	asked := func(client netip.Addr, target netip.AddrPort) string {
		t.Helper()
		answer, seen := ask(client, target)
		answer()
		return seen
	}

	first := asked(client4, target)
	for begun := time.Now(); ; begun = time.Now() {
		again := asked(client4, target)
		if again == first {
			break
		}
		if time.Since(begun) < defaultReuse.idle { // a slow machine may take longer for a query
			t.Errorf("a client's queries came from %s, then from %s", first, again)
			break
		}
		first = again
	}
	if got := asked(neighbour, target); got == first {
		t.Errorf("another client's query came from %s, too", got)
	}
	if got := asked(client4, other); got == first {
		t.Errorf("a query to another server came from %s, too", got)
	}
	answer, open := ask(client4, target)
	if got := asked(client4, target); got == open {
		t.Errorf("%s was reused while a query was pending", got)
	}
	answer()

	seen := map[string]bool{}
	for end := time.Now().Add(defaultReuse.idle * 3 / 2); time.Now().Before(end); time.Sleep(defaultReuse.idle / 20) {
		seen[asked(client4, target)] = true
	}
	if n := len(seen); n < 2 || n > 6 {
		t.Errorf("queries for %v came from %d ports, want a new one every %v", defaultReuse.idle*3/2, n, defaultReuse.idle)
	}
	c.noFlows()
	if opened, closed := testutil.ToFloat64(c.f.account.opened[UDP]), testutil.ToFloat64(c.f.account.closed[UDP][ended]); opened != closed {
		t.Errorf("%v flows were opened, %v ended", opened, closed)
	}
}

// TestIdleDNSFlowsAreBounded: sockets that were used once do not accumulate, and no flow is
// refused because of idle ones.
func TestIdleDNSFlowsAreBounded(t *testing.T) {
	v4, _, port := listenUDP(t)
	c := newClient(t, func(cfg *Config) {
		cfg.MaxFlows, cfg.MaxFlowsPerPeer = maxIdleDNS, maxIdleDNS
		cfg.Resolve = func(_ string, target netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), nil
		}
	})
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := v4.ReadFrom(buf)
			if err != nil {
				return
			}
			v4.WriteTo(buf[:n], from)
		}
	}()
	for i := range 3 * maxIdleDNS {
		// From many clients: a second flow between the same hosts would reuse the
		// socket.
		conn := c.dialUDP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(1 + i%250)}), dnsPort))
		conn.Write([]byte("query"))
		if _, err := conn.Read(make([]byte, 512)); err != nil {
			t.Fatalf("query %d: %v", i, err)
		}
		conn.Close()
		if udp := c.f.Active()[UDP]; udp > maxIdleDNS {
			t.Fatalf("%d flows", udp)
		}
	}
	if got := testutil.ToFloat64(c.f.account.failed[UDP][limited]); got != 0 {
		t.Errorf("%v flows were refused", got)
	}
	c.noFlows()
}

func TestUDPFlowEndsWhenIdle(t *testing.T) {
	c := newClient(t, nil)
	conn := c.dialUDP(targets(serveUDPEcho(t))[0])
	conn.Write([]byte("x"))
	conn.Read(make([]byte, 1))
	c.f.udp().sweep(time.Now().Add(udpIdleTimeout - time.Second))
	if udp := c.f.Active()[UDP]; udp != 1 {
		t.Errorf("%d flows before the idle timeout, want 1", udp)
	}
	c.f.udp().sweep(time.Now().Add(udpIdleTimeout + time.Second))
	c.noFlows()
	if got := testutil.ToFloat64(c.f.account.closed[UDP][idled]); got != 1 {
		t.Errorf("counted %v idle flows, want 1", got)
	}
}

// TestUDPManyFlowsLeaveNothing opens and closes flows at once from many sides.
func TestUDPManyFlowsLeaveNothing(t *testing.T) {
	c := newClient(t, nil)
	port := serveUDPEcho(t)
	// A datagram of each of 200 flows at once is more than the server's socket holds, by
	// default 208 KiB with the kernel's overhead.
	exchanges := make(chan struct{}, 64)
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			conn := c.dialUDP(targets(port)[i%3])
			msg := binary.BigEndian.AppendUint32(nil, uint32(i))
			got := make([]byte, 4)
			for range 5 {
				exchanges <- struct{}{}
				conn.Write(msg)
				_, err := conn.Read(got)
				<-exchanges
				if err != nil || !bytes.Equal(got, msg) {
					t.Errorf("flow %d: %v, %v", i, got, err)
				}
			}
		})
	}
	all.Wait()
	if udp := c.f.Active()[UDP]; udp != 300 {
		t.Errorf("%d flows, want 300", udp)
	}
	c.f.udp().sweep(time.Now().Add(udpIdleTimeout + time.Second))
	c.noFlows()
}

func TestUDPLimitIsReportedToTheClient(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxFlows = 1 })
	port := serveUDPEcho(t)
	first := c.dialUDP(targets(port)[0])
	first.Write([]byte("x"))
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	second := c.dialUDP(targets(port)[0])
	second.Write([]byte("x"))
	c.awaitPortUnreachable(second, targets(port)[0])
	if udp := c.f.Active()[UDP]; udp != 1 {
		t.Errorf("%d flows, want only the first", udp)
	}
}

func TestDeniedIsCounted(t *testing.T) {
	bad := netip.MustParseAddrPort("169.254.170.2:80")
	c := newClient(t, func(cfg *Config) { cfg.Deny = func(a netip.AddrPort) bool { return a == bad } })
	if !c.f.Denied(bad) || c.f.Denied(targets(80)[0]) {
		t.Error("Denied does not follow Deny")
	}
	if got := testutil.ToFloat64(c.f.rules.denied); got != 1 {
		t.Errorf("counted %v, want 1", got)
	}
}
