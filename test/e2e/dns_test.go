package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"golang.org/x/net/dns/dnsmessage"
)

const privateZone = "internal.example.com"

// withResolver lets task metadata have the VPC's resolver, as on Fargate.
func withResolver(task *awstest.Task) { task.DNS = []netip.Addr{netip.MustParseAddr(resolverHost)} }

// TestDNS resolves private names with the client's own split DNS, through a router that answers for
// the VPC's resolver, whose address no route of ROUTER_ROUTES has. The resolver then fails.
func TestDNS(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{task: withResolver, zones: map[string]netip.Addr{privateZone: netip.MustParseAddr(resolverHost)}})
			dnsmasq := w.startResolver()
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"ROUTER_DNS": "on", "ROUTER_ROUTES": "subnet,10.0.3.0/24", "ROUTER_FLOW_LOG": "",
			}})
			r.awaitReady()
			c := w.startClientWith(true)
			c.awaitRoute(resolverHost)
			c.awaitRoute("10.0.3.0/24")

			out, code := r.run("router", "plan")
			if code != 0 || !strings.Contains(out, resolverHost+"/32") || !strings.Contains(out, "ROUTER_DNS, the VPC's resolver (task metadata)") {
				t.Errorf("router plan: exit %d: %s", code, out)
			}
			if out, code := r.run("router", "status"); code != 0 || !strings.Contains(out, "dns: answers for "+resolverHost) {
				t.Errorf("router status: exit %d: %s", code, out)
			}
			if out, code := r.run("router", "doctor"); code != 0 || !strings.Contains(out, resolverHost+" (task metadata), whose queries the router answers, answers in ") {
				t.Errorf("router doctor: exit %d: %s", code, out)
			}

			c.awaitName("db."+privateZone, dbHost)
			if out, code := c.resolving("curl", "-sS", "--max-time", "10", "http://db."+privateZone+"/"); code != 0 || !strings.HasPrefix(out, "hello from "+dbHost) {
				t.Errorf("curl by name: exit %d: %s", code, out)
			}
			for _, how := range []string{"+notcp", "+tcp"} {
				out, code := c.sh("dig", "@"+resolverHost, "db."+privateZone, "+short", "+tries=3", "+time=5", how)
				if strings.TrimSpace(out) != dbHost || code != 0 {
					t.Errorf("dig %s: exit %d: %s", how, code, out)
				}
			}
			if hits, tcp := r.dnsQueries("hit", "udp"), r.dnsQueries("hit", "tcp"); hits == 0 || tcp != 1 {
				t.Errorf("%v hits over UDP, %v over TCP", hits, tcp)
			}
			if s := r.status(); s.Flows.UDP != 0 || s.DNS == nil || !s.DNS.Answered {
				t.Errorf("%d UDP flows, DNS %+v", s.Flows.UDP, s.DNS)
			}
			if out, code := c.sh("dig", "@169.254.169.253", "db."+privateZone, "+tries=1", "+time=2"); code == 0 {
				t.Errorf("169.254.169.253 answers: %s", out)
			}

			// Slow: it answers both of the router's tries at the end.
			dnsmasq.cmd.Process.Signal(syscall.SIGSTOP)
			time.AfterFunc(700*time.Millisecond, func() { dnsmasq.cmd.Process.Signal(syscall.SIGCONT) })
			if out, code := c.sh("dig", "@"+resolverHost, "slow."+privateZone, "+short", "+tries=1", "+time=5"); strings.TrimSpace(out) != dbHost || code != 0 {
				t.Errorf("dig of a slow resolver: exit %d: %s", code, out)
			}
			// Silent: the kernel accepts queries for a process that is stopped.
			dnsmasq.cmd.Process.Signal(syscall.SIGSTOP)
			failing := func(want bool) func(code int, body ops.Readiness) bool {
				return func(code int, body ops.Readiness) bool {
					c.sh("dig", "@"+resolverHost, fmt.Sprintf("n%d.%s", time.Now().UnixNano(), privateZone), "+tries=1", "+time=6")
					got := false
					for _, why := range body.Warnings {
						got = got || why.Code == "dns_failing"
					}
					return code == 200 && got == want
				}
			}
			r.awaitReadyz("the warning about the resolver", failing(true))
			c.awaitName("db."+privateZone, dbHost) // from the cache
			if out, code := r.run("router", "status"); code != 0 || !strings.Contains(out, "dns_failing") {
				t.Errorf("router status: exit %d: %s", code, out)
			}
			// Restarted.
			dnsmasq.cmd.Process.Kill()
			dnsmasq.wait()
			w.startResolver()
			r.awaitReadyz("the end of the warning", failing(false))
		})
	}
}

// awaitName waits until the client's machine resolves a name to an address.
func (c *client) awaitName(name, want string) {
	c.t.Helper()
	testwait.Until(c.t, name+" to resolve", func() error {
		out, code := c.resolving("getent", "hosts", name)
		if fields := strings.Fields(out); code != 0 || len(fields) < 2 || fields[0] != want {
			return fmt.Errorf("getent: exit %d: %q, want %s", code, out, want)
		}
		return nil
	})
}

// dnsQueries returns router_dns_queries_total.
func (r *router) dnsQueries(result, transport string) float64 {
	r.t.Helper()
	_, metrics := r.get("/metrics")
	_, rest, _ := strings.Cut(metrics, fmt.Sprintf("\nrouter_dns_queries_total{result=%q,transport=%q} ", result, transport))
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(line, 64)
	if err != nil {
		r.t.Errorf("the metrics lack DNS queries %s, %s: %v", result, transport, err)
	}
	return n
}

// TestDNSSideBySide: one client reaches the hosts of two VPCs with the same addresses by name.
func TestDNSSideBySide(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			nameserver := func(site string) netip.Addr { return netip.MustParseAddr("fd7a:115c:a1e0:b1a:0:" + site + ":a00:2") }
			w := newWorld(t, worldOptions{
				policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: {netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64")}}},
				task:   withResolver,
				zones:  map[string]netip.Addr{"seven.example.com": nameserver("7"), "eight.example.com": nameserver("8")},
			})
			other := w.sameAddressVPC("192.168.77.31", "10.0.1.6")
			other.metadata.Update(withResolver)
			sites := []struct {
				w             *world
				id, zone, own string
			}{{w, "7", "seven.example.com", routerVPC}, {other, "8", "eight.example.com", "10.0.1.6"}}
			for _, s := range sites {
				s.w.startZone(s.zone)
				aws := must(awstest.NewServer(selfIP+":0", awstest.World{
					Secrets:    w.aws.Secrets,
					VPCs:       []awstest.VPC{{ID: "vpc-" + s.id, CIDRs: []awstest.Association{{ID: "assoc-" + s.id, Prefix: netip.MustParsePrefix("10.0.0.0/16")}}}},
					Interfaces: []awstest.Interface{{ID: "eni-" + s.id, MAC: w.routerMAC, VPCID: "vpc-" + s.id, SubnetID: "subnet-" + s.id}},
				}))
				t.Cleanup(func() { aws.Close() })
				r := s.w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
					"AWS_ENDPOINT_URL": aws.URL(), "ROUTER_SITE_ID": s.id, "ROUTER_HOSTNAME": "site-" + s.id, "ROUTER_DNS": "on",
				}})
				r.awaitReady()
				if out, code := r.run("router", "plan"); code != 0 || !strings.Contains(out, nameserver(s.id).String()) || !strings.Contains(out, "AAAA records") {
					t.Errorf("router plan: exit %d: %s", code, out)
				}
			}
			c := w.startClientWith(true)
			for _, s := range sites {
				c.awaitRoute("fd7a:115c:a1e0:b1a:0:" + s.id + ":a00:0/112")
				c.awaitName("db."+s.zone, "fd7a:115c:a1e0:b1a:0:"+s.id+":a00:304")
				if out, code := c.resolving("curl", "-sS", "--max-time", "10", "http://db."+s.zone+"/"); code != 0 || out != fmt.Sprintf("hello from %s to %s\n", dbHost, s.own) {
					t.Errorf("curl of db.%s: exit %d: %s", s.zone, code, out)
				}
			}
		})
	}
}

// TestDNSDeploy: a rolling deploy while a client looks up 500 names a second, two thirds of which the
// cache has, fails none.
func TestDNSDeploy(t *testing.T) {
	w, old, next := twoDNSRouters(t, nil, nil)
	l := w.startLookups(lookupOptions{server: resolverHost, newOf: 3, wait: 2 * time.Second, overTCP: true})
	time.Sleep(2 * time.Second)
	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	w.awaitPrimary("next")
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
	time.Sleep(2 * time.Second)
	l.stop()
	t.Logf("look-ups: %v; %d after a second try; the successor answered %v from its cache", &l.tally, l.again.Load(), next.dnsQueries("hit", "udp"))
	if l.failures() > 0 {
		t.Error("a deploy must not fail any look-up")
	}
	if l.successes() < 2000 || next.dnsQueries("hit", "udp") == 0 {
		t.Error("too few look-ups for a deploy")
	}
	old.hasLogged(`"msg":"draining","helpers":1`)
}

// TestDNSCrash kills the primary router while a client looks up 500 names a second with its MagicDNS, and
// with the time-outs of glibc: twice 5 s. Its first tries fail until control gives the routes to the other
// router; the second ones find it.
func TestDNSCrash(t *testing.T) {
	const grace = time.Second
	w, old, next := twoDNSRouters(t, map[string]netip.Addr{privateZone: netip.MustParseAddr(resolverHost)}, func(c *client) { c.awaitName("db."+privateZone, dbHost) })
	l := w.startLookups(lookupOptions{server: magicDNS, newOf: 10, wait: 5 * time.Second})
	time.Sleep(3 * time.Second)
	old.cmd.Process.Kill()
	w.awaitPrimary("next")
	time.Sleep(8 * time.Second) // for the second tries
	l.stop()
	t.Logf("look-ups: %v; %d after a second try; the successor answered %v from its cache", &l.tally, l.again.Load(), next.dnsQueries("hit", "udp"))
	if l.failures() > 0 {
		t.Error("look-ups failed although the second router answers before their second try ends")
	}
	if gap, most := l.longestGap(), grace+3*time.Second; gap > most {
		t.Errorf("no look-up succeeded for %v, want at most %v", gap, most)
	}
	if l.successes() < 3000 || l.again.Load() == 0 {
		t.Error("too few look-ups for a crash")
	}
}

// twoDNSRouters starts two routers that answer DNS queries; old is primary. check waits for more of the
// client, which uses the tailnet's DNS if there are zones.
func twoDNSRouters(t *testing.T, zones map[string]netip.Addr, check func(*client)) (w *world, old, next *router) {
	t.Helper()
	w = newWorld(t, worldOptions{policy: tailnettest.Policy{Failover: time.Second}, task: withResolver, zones: zones})
	w.startResolver()
	env := func(name string) map[string]string {
		return map[string]string{"ROUTER_HOSTNAME": name, "ROUTER_DNS": "on", "ROUTER_DRAIN_TIMEOUT": "10s"}
	}
	old = w.startRouter(routerOptions{env: env("old")})
	c := w.startClientWith(len(zones) > 0)
	old.awaitReady()
	w.awaitPrimary("old")
	c.awaitRoute("10.0.0.0/16")
	if check != nil {
		check(c)
	}
	o := w.alongside("192.168.77.31", "10.0.1.6")
	o.metadata.Update(func(task *awstest.Task) {
		withResolver(task)
		task.IPv6 = []netip.Addr{w.router6} // so that both have the same routes
	})
	next = o.startRouter(routerOptions{env: env("next")})
	next.awaitReady()
	return w, old, next
}

// magicDNS is the address at which each client answers its own machine's queries.
const magicDNS = "100.100.100.100"

// lookups are the look-ups of a client.
type lookups struct {
	tally
	w     *world
	wg    sync.WaitGroup
	end   context.CancelFunc
	wait  time.Duration // for an answer
	again atomic.Int64  // successes of a second try
}

type lookupOptions struct {
	server  string
	newOf   int // one of so many names is new
	wait    time.Duration
	overTCP bool // ask over TCP as well
}

// startLookups looks up 500 names a second.
func (w *world) startLookups(o lookupOptions) *lookups {
	const streams, each = 10, 50 // a second
	ctx, end := context.WithCancel(w.t.Context())
	l := &lookups{w: w, end: end, wait: o.wait}
	w.t.Cleanup(l.stop)
	for i := range streams {
		l.wg.Go(func() {
			tick := time.NewTicker(time.Second / each)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("host%d.%s.", n%7, privateZone)
				if n%o.newOf == 0 {
					name = fmt.Sprintf("once-%d-%d.%s.", i, n, privateZone)
				}
				l.wg.Go(func() {
					l.lookUp(name, func(name string) error { return askName(w, o.server, name, l.wait) })
				})
				<-tick.C
			}
		})
	}
	if o.overTCP {
		l.wg.Go(func() { l.overTCP(ctx, o.server) })
	}
	return l
}

// stop ends the look-ups, and waits for the last ones.
func (l *lookups) stop() {
	l.end()
	l.wg.Wait()
}

// lookUp asks for a name up to twice, as a stub resolver does.
func (l *lookups) lookUp(name string, ask func(name string) error) {
	began := time.Now()
	var err error
	for try := range 2 {
		if err = ask(name); err == nil {
			if try > 0 {
				l.again.Add(1)
			}
			l.note(began, nil)
			return
		}
	}
	l.note(began, fmt.Errorf("%s after %v: %w", name, time.Since(began).Round(time.Millisecond), err))
}

// overTCP asks for names on one connection, and opens another when that ends.
func (l *lookups) overTCP(ctx context.Context, server string) {
	var conn net.Conn
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		l.lookUp(fmt.Sprintf("tcp%d.%s.", n, privateZone), func(name string) (err error) {
			if conn == nil {
				if conn, err = l.w.client.Dial(context.Background(), "tcp", net.JoinHostPort(server, "53")); err != nil {
					return err
				}
			}
			if err = askOver(conn, name, true, l.wait); err != nil {
				conn.Close()
				conn = nil
			}
			return err
		})
		<-tick.C
	}
	if conn != nil {
		conn.Close()
	}
}

func askName(w *world, server, name string, limit time.Duration) error {
	conn, err := w.client.Dial(context.Background(), "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return err
	}
	defer conn.Close()
	return askOver(conn, name, false, limit)
}

func askOver(conn net.Conn, name string, tcp bool, limit time.Duration) error {
	conn.SetDeadline(time.Now().Add(limit))
	m := dnsmessage.Message{
		ID: uint16(time.Now().UnixNano()), RecursionDesired: true,
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	query, err := m.Pack()
	if err != nil {
		return err
	}
	if tcp {
		query = append([]byte{byte(len(query) >> 8), byte(len(query))}, query...)
	}
	if _, err := conn.Write(query); err != nil {
		return err
	}
	b := make([]byte, 1500)
	if tcp {
		if _, err := io.ReadFull(conn, b[:2]); err != nil {
			return err
		}
		b = b[:int(b[0])<<8|int(b[1])]
		_, err = io.ReadFull(conn, b)
	} else {
		var n int
		n, err = conn.Read(b)
		b = b[:n]
	}
	if err != nil {
		return err
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(b); err != nil {
		return err
	}
	if answer.ID != m.ID || answer.RCode != dnsmessage.RCodeSuccess || len(answer.Answers) != 1 {
		return fmt.Errorf("not the answer: %v", answer.GoString())
	}
	return nil
}
