package forward

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func prefixes(text ...string) (list []netip.Prefix) {
	for _, s := range text {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

func TestRouteIsTheLongestPrefix(t *testing.T) {
	table := newRouteTable()
	table.set(prefixes("10.0.0.0/8", "10.0.3.0/24", "fd7a:115c:a1e0:b1a:0:7:a00:0/104", "fd00:1::/64"))
	for addr, want := range map[string]string{
		"10.0.3.4": "10.0.3.0/24", "10.1.3.4": "10.0.0.0/8", "192.168.1.1": otherRoutes,
		"fd7a:115c:a1e0:b1a:0:7:a00:304": "fd7a:115c:a1e0:b1a:0:7:a00:0/104", "fd7a:115c:a1e0:b1a:0:8:a00:304": otherRoutes,
		"fd00:1::5": "fd00:1::/64",
	} {
		table.lookup(netip.MustParseAddr(addr)).toVPC.Add(1)
		counter := table.bytes.WithLabelValues(want, "to_vpc")
		if got := testutil.ToFloat64(counter); got < 1 {
			t.Errorf("lookup(%s) is not route %s", addr, want)
		}
	}
	if got := testutil.ToFloat64(table.bytes.WithLabelValues(otherRoutes, "to_vpc")); got != 2 {
		t.Errorf("%v counted as other, want 2", got)
	}
}

func TestRouteSeriesAreBounded(t *testing.T) {
	table := newRouteTable()
	const seriesEach = 2
	for round := range 5 {
		var many []netip.Prefix
		for i := range 3 * maxRoutes {
			many = append(many, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", round, i)))
		}
		table.set(many)
		if got, most := testutil.CollectAndCount(table.bytes), seriesEach*(maxRoutes+1); got > most {
			t.Fatalf("%d series, want %d at most", got, most)
		}
		if table.lookup(netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", round))) == table.other {
			t.Errorf("round %d: the first route has no series", round)
		}
		if table.lookup(netip.MustParseAddr(fmt.Sprintf("10.%d.%d.1", round, 3*maxRoutes-1))) != table.other {
			t.Errorf("round %d: the last route has series", round)
		}
	}
}

// TestRouteKeepsItsCounts: a route that flaps keeps its counters, and a flow that outlives its
// route still counts.
func TestRouteKeepsItsCounts(t *testing.T) {
	table := newRouteTable()
	table.set(prefixes("10.0.0.0/16"))
	r := table.lookup(netip.MustParseAddr("10.0.0.1"))
	r.toVPC.Add(5)
	table.set(nil)
	if table.lookup(netip.MustParseAddr("10.0.0.1")) != table.other {
		t.Error("lookup still finds a withdrawn route")
	}
	r.toVPC.Add(1)
	table.set(prefixes("10.0.0.0/16"))
	if got := testutil.ToFloat64(table.lookup(netip.MustParseAddr("10.0.0.1")).toVPC); got != 6 {
		t.Errorf("counted %v bytes, want 6", got)
	}
}

func TestFlowsAreCountedByRoute(t *testing.T) {
	c := newClient(t, nil)
	c.f.SetRoutes(prefixes("10.0.3.0/24"))
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	conn := c.mustDialTCP(targets(port)[0])
	io.WriteString(conn, "there and back")
	conn.CloseWrite()
	io.ReadAll(conn)
	udpPort := serveUDPEcho(t)
	datagrams := c.dialUDP(targets(udpPort)[0])
	datagrams.Write([]byte("ping"))
	datagrams.Read(make([]byte, 4))
	if _, err := c.dialTCP(netip.AddrPortFrom(targets(1)[0].Addr(), 1)); err == nil {
		t.Fatal("port 1 of loopback is open")
	}
	waitFor(t, "the flows' bytes", func() bool {
		return testutil.ToFloat64(c.f.routes.bytes.WithLabelValues("10.0.3.0/24", "to_vpc")) == 18 &&
			testutil.ToFloat64(c.f.routes.bytes.WithLabelValues("10.0.3.0/24", "to_tailnet")) == 18
	})
	want := `
# HELP router_route_dial_failures_total Flows that could not be opened towards the target, by advertised route and reason.
# TYPE router_route_dial_failures_total counter
`
	for _, r := range []string{"10.0.3.0/24", otherRoutes} {
		for _, reason := range []string{"exhausted", "forbidden", "limit", "other", "refused", "timeout", "unreachable"} {
			n := 0
			if r != otherRoutes && reason == refused {
				n = 1
			}
			want += fmt.Sprintf("router_route_dial_failures_total{reason=%q,route=%q} %d\n", reason, r, n)
		}
	}
	if err := testutil.GatherAndCompare(c.reg, strings.NewReader(want), "router_route_dial_failures_total"); err != nil {
		t.Error(err)
	}
}

// TestInUse: an address is in use while a flow of any protocol goes to it.
func TestInUse(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	target := targets(port)[0]
	if c.f.InUse(target.Addr()) {
		t.Error("in use before the first flow")
	}
	conn := c.mustDialTCP(target)
	if !c.f.InUse(target.Addr()) {
		t.Error("not in use with an open connection")
	}
	if c.f.InUse(target.Addr().Next()) {
		t.Error("another address is in use")
	}
	conn.CloseWrite()
	io.ReadAll(conn)
	waitFor(t, "the end of the flow", func() bool { return !c.f.InUse(target.Addr()) })
	udp := c.dialUDP(targets(serveUDPEcho(t))[0])
	udp.Write([]byte("ping"))
	udp.Read(make([]byte, 4))
	if !c.f.InUse(target.Addr()) {
		t.Error("not in use with a UDP flow")
	}
}

func BenchmarkRouteOf(b *testing.B) {
	table := newRouteTable()
	table.set(prefixes("10.0.0.0/16", "10.1.0.0/16", "172.16.0.0/12", "fd00:1::/64"))
	addr := netip.MustParseAddr("10.1.3.4")
	for b.Loop() {
		table.lookup(addr)
	}
}
