package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestChaos blocks random dependencies of the router, for 15 s or as long as SOAK sets (make
// soak): traffic that does not need them never stops, and at the end the router uses as many
// resources as at the start. CHAOS_SEED replays a sequence.
func TestChaos(t *testing.T) {
	length, _ := soakTime(t, 15*time.Second)
	if _, err := exec.LookPath("iptables"); err != nil {
		skipOrFail(t, "cutting links needs iptables")
	}
	w := newWorld(t, worldOptions{policy: tailnettest.Policy{Failover: time.Second}})
	w.serveEchoTCP(dbHost + ":" + echoPort)
	r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_REFRESH": "1s", "ROUTER_PROBE": dbHost + ":80"}})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	faults := w.faults()

	warm := w.startLoad(20, testwait.Limit()) // pools fill
	warm.window(5 * time.Second)
	warm.stop()
	const settle = time.Second // the router frees the resources of ended flows meanwhile
	time.Sleep(settle)
	before := r.held()

	dice := newDice(t)
	rounds, done := 0, 0
	for end := time.Now().Add(length); time.Now().Before(end); rounds++ {
		// Flows do not need control, AWS and DERP servers.
		l := w.startLoad(20, testwait.Limit())
		for range 3 {
			for _, f := range faults[:3] {
				f.set(t, dice.IntN(2) == 0)
			}
			time.Sleep(time.Duration(500+dice.IntN(2000)) * time.Millisecond)
		}
		n, _ := l.cut()
		l.stop()
		if n > 0 || l.connections.failures() > 0 || l.requests.failures() > 0 || l.stalled(noticed) > 0 {
			t.Errorf("round %d with %s: %d flows ended; connections: %v; requests: %v; the machine: %v", rounds, describeFaults(faults), n, &l.connections, &l.requests, &l.direct)
		}
		done += l.connections.done
		// They need the VPC: once it is reachable, they continue.
		vpc := faults[3]
		vpc.set(t, true)
		time.Sleep(time.Duration(500+dice.IntN(2000)) * time.Millisecond)
		vpc.set(t, false)
		back := time.Now()
		for w.fetch(t.Context(), dbHost) != nil {
			if time.Since(back) > 10*time.Second {
				t.Fatalf("round %d: no connection succeeds %v after the VPC is back", rounds, time.Since(back))
			}
		}
	}
	for _, f := range faults {
		f.set(t, false)
	}
	r.awaitReady()
	w.await("all routes to be served", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "edge-router")
		return ok && n.Online && len(n.Primary) == len(w.advertised)
	})
	var after held
	testwait.Until(t, "the router to use as many resources as before", func() error {
		after = r.held()
		if after.goroutines > before.goroutines+20 || after.files > before.files+20 {
			return fmt.Errorf("before %+v, now %+v", before, after)
		}
		return nil
	})
	t.Logf("%d rounds, %d connections; before %+v, after %+v", rounds, done, before, after)
	if after.memory > 2*before.memory && after.memory > 100<<20 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// newDice returns random numbers that depend only on CHAOS_SEED, or on a seed that it logs.
func newDice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("CHAOS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("CHAOS_SEED=%s: use a number that an earlier run has printed", v)
		}
	}
	t.Logf("replay with CHAOS_SEED=%d go test -count=1 -run '^%s$' ./test/e2e", seed, t.Name())
	return rand.New(rand.NewPCG(seed, 0))
}

// fault is a dependency of the router that the test can block.
type fault struct {
	w     *world
	name  string
	rules [][]string // of iptables, which drop its packets
	on    bool
}

// faults returns control, AWS, DERP servers and, as the last, the VPC.
func (w *world) faults() []*fault {
	control, ok := w.testControl()
	if !ok {
		w.t.Skip("only tailnettest's control server reports the ports of its DERP server")
	}
	port := func(raw string) string {
		u := must(url.Parse(raw))
		return u.Port()
	}
	relays := [][]string{}
	for _, region := range control.DERPMap().Regions {
		for _, n := range region.Nodes {
			relays = append(relays, []string{"-p", "tcp", "--dport", strconv.Itoa(n.DERPPort)}, []string{"-p", "udp", "--dport", strconv.Itoa(n.STUNPort)})
		}
	}
	out := func(rules ...[]string) (all [][]string) {
		for _, r := range rules {
			all = append(all, append([]string{"OUTPUT"}, r...))
		}
		return all
	}
	return []*fault{
		{w: w, name: "control", rules: out([]string{"-p", "tcp", "--dport", port(control.ControlURL())})},
		{w: w, name: "aws", rules: out([]string{"-p", "tcp", "--dport", port(w.moto.URL())})},
		{w: w, name: "derp", rules: out(relays...)},
		{w: w, name: "vpc", rules: [][]string{{"OUTPUT", "-o", "eth1"}, {"INPUT", "-i", "eth1"}}},
	}
}

func (f *fault) set(t *testing.T, on bool) {
	t.Helper()
	if f.on == on {
		return
	}
	f.on = on
	action := "-D"
	if on {
		action = "-A"
	}
	for _, rule := range f.rules {
		for _, program := range []string{"iptables", "ip6tables"} {
			args := append(append([]string{"-w", action}, rule...), "-j", "DROP")
			if out, err := f.w.routerHost.Command(t.Context(), program, args...).CombinedOutput(); err != nil {
				t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
			}
		}
	}
}

func describeFaults(list []*fault) string {
	var s []string
	for _, f := range list {
		s = append(s, fmt.Sprintf("%s cut: %t", f.name, f.on))
	}
	return strings.Join(s, ", ")
}
