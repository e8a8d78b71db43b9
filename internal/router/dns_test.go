package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/testwait"
)

// TestDNSFollowsTheResolver runs a router whose routes do not lead to the VPC's resolver, which first
// answers, then does not.
func TestDNSFollowsTheResolver(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go answerNXDOMAIN(pc)
	resolver := netip.MustParseAddrPort(pc.LocalAddr().String())
	s := routertest.New(t)
	s.Env["ROUTER_DNS"], s.Env["ROUTER_ROUTES"] = "on", "subnet"
	s.Metadata.Update(func(task *awstest.Task) {
		task.DNS = []netip.Addr{netip.MustParseAddr("169.254.169.253"), netip.MustParseAddr("10.0.0.2")}
	})
	asked := make(chan netip.AddrPort, 100)
	r := start(t, s, Options{Resolve: func(network string, target netip.AddrPort) (netip.AddrPort, error) {
		select {
		case asked <- target:
		default:
		}
		if network == "tcp" {
			return netip.AddrPort{}, errors.New("no TCP in this test")
		}
		return resolver, nil
	}, DenyDial: func(netip.AddrPort) bool { return false }}) // the deny list has loopback

	status := r.status()
	if i := slices.IndexFunc(status.Routes, func(r ops.RouteStatus) bool {
		return r.Prefix == "10.0.0.2/32" && strings.Contains(r.Source, "ROUTER_DNS")
	}); i < 0 {
		t.Errorf("no route to the resolver: %+v", status.Routes)
	}
	if d := status.DNS; d == nil || !d.Answered || d.Problem != "" || d.Nameserver != "10.0.0.2" || d.Route != "10.0.0.2/32" {
		t.Errorf("the status has %+v", d)
	}
	if got := r.forward.ResponderAddr(); got != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("the data path answers for %v", got)
	}
	client := netip.MustParseAddrPort("100.64.0.9:4444")
	ask := func(name string) (rcode byte) {
		answer := r.resolver.server.Serve(t.Context(), client, false, queryFor(name))
		if len(answer) < 12 {
			t.Fatalf("an answer of %d bytes", len(answer))
		}
		return answer[3] & 0xf
	}
	const nxdomain, servfail = 3, 2
	if got := ask("www"); got != nxdomain {
		t.Errorf("RCODE %d, want NXDOMAIN", got)
	}
	if to := <-asked; to != netip.MustParseAddrPort("10.0.0.2:53") {
		t.Errorf("asked %v", to)
	}
	if w := r.warnings(); len(w) > 0 {
		t.Errorf("warnings %v", w)
	}

	pc.Close() // the kernel then refuses queries
	testwait.Until(t, "the warning about the resolver", func() error {
		if got := ask(fmt.Sprint(time.Now().UnixNano())); got != servfail {
			return fmt.Errorf("RCODE %d", got)
		}
		if w := r.warnings(); len(w) != 1 || w[0].Code != "dns_failing" || w[0].Fix == "" {
			return fmt.Errorf("warnings %v", w)
		}
		return nil
	})
	if reasons := r.notReady(); len(reasons) > 0 {
		t.Errorf("not ready because of the resolver: %v", reasons)
	}
	if d := r.status().DNS; d.Problem == "" {
		t.Errorf("the status has %+v", d)
	}
}

// queryFor returns a query for the A records of a name of one label.
func queryFor(label string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(label))}
	return append(append(b, label...), 0, 0, 1, 0, 1)
}

func answerNXDOMAIN(pc net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		b[2], b[3] = b[2]|0x80, 0x83
		binary.BigEndian.PutUint16(b[10:], 0) // without the query's EDNS
		end := 12
		for b[end] != 0 {
			end += 1 + int(b[end])
		}
		pc.WriteTo(b[:min(n, end+5)], from)
	}
}

// TestDNSWithoutResolver: a router that does not find the resolver, or may not advertise it, has a
// warning, and is ready.
func TestDNSWithoutResolver(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		dns  []netip.Addr
		want string
	}{
		"unknown":  {map[string]string{"ROUTER_ROUTES": "10.0.1.0/24"}, nil, "is unknown"},
		"excluded": {map[string]string{"ROUTER_EXCLUDE_ROUTES": "10.0.0.0/24"}, []netip.Addr{netip.MustParseAddr("10.0.0.2")}, "10.0.0.2 (task metadata) is in no advertised route"},
	} {
		t.Run(name, func(t *testing.T) {
			s := routertest.New(t)
			s.Env["ROUTER_DNS"] = "on"
			maps.Copy(s.Env, tt.env)
			s.Metadata.Update(func(task *awstest.Task) { task.DNS = tt.dns })
			r := start(t, s, Options{})
			if w := r.warnings(); len(w) != 1 || w[0].Code != "dns_unavailable" || !strings.Contains(w[0].Message, tt.want) || w[0].Fix == "" {
				t.Errorf("warnings %v, want one with %q", w, tt.want)
			}
		})
	}
}

func TestDNSQuestionsFitTheFiles(t *testing.T) {
	for files, want := range map[int64]int{0: 256, 600: 16, 1024: 16, 4096: 64, 16384: 256, 65536: 256} {
		if got := dnsQuestions(files); got != want {
			t.Errorf("%d files allow %d questions, want %d", files, got, want)
		}
	}
}

// TestDNSClients: the clients of the last five minutes are introduced in a hand-over, and their number
// is bounded.
func TestDNSClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dnsClients{seen: map[netip.Addr]time.Time{}}
		a, b := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
		c.note(a, time.Now())
		time.Sleep(dnsClientTime)
		c.note(b, time.Now())
		if got := c.recent(time.Now()); len(got) != 2 {
			t.Errorf("recent clients %v", got)
		}
		time.Sleep(time.Second)
		if got := c.recent(time.Now()); !slices.Equal(got, []netip.Addr{b}) {
			t.Errorf("recent clients %v, want %v", got, b)
		}
		for range 3 * maxDNSClients {
			a = a.Next()
			c.note(a, time.Now())
		}
		if got := c.recent(time.Now()); len(got) > maxDNSClients || !slices.Contains(got, a) {
			t.Errorf("%d recent clients", len(got))
		}
	})
}
