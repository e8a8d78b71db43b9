package denylist

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/routes"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// host is a machine whose addresses a test changes.
type host struct {
	mu    sync.Mutex
	addrs []net.Addr
	err   error
	reads int
}

func (h *host) read() ([]net.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	return h.addrs, h.err
}

func (h *host) set(err error, addrs ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err, h.addrs = err, nil
	for _, a := range addrs {
		ip, n, err := net.ParseCIDR(a)
		if err != nil {
			panic(err)
		}
		h.addrs = append(h.addrs, &net.IPNet{IP: ip, Mask: n.Mask})
	}
}

const own4, own6, peer4, peer6, other = "10.0.1.5", "2600:1f18::5", "10.0.1.6", "2600:1f18::6", "10.0.3.4"

func newList(t *testing.T, h *host, edit func(*Config)) *List {
	t.Helper()
	cfg := Config{
		Listeners: []string{"0.0.0.0:9002", "127.0.0.1:6060", ""}, Ports: []uint16{41641, 0},
		Addrs: h.read, Logger: slog.New(slog.DiscardHandler),
	}
	if edit != nil {
		edit(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *List) denies(t *testing.T, want bool, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if got := l.Denied(netip.MustParseAddrPort(target)); got != want {
			t.Errorf("Denied(%s) is %v, want %v", target, got, want)
		}
	}
}

func via(t *testing.T, v4 string) string {
	t.Helper()
	p, err := routes.Via(7, netip.PrefixFrom(netip.MustParseAddr(v4), 32))
	if err != nil {
		t.Fatal(err)
	}
	return p.Addr().String()
}

func TestDenied(t *testing.T) {
	h := &host{}
	h.set(nil, own4+"/24", own6+"/64", "127.0.0.1/8")
	l := newList(t, h, nil)
	l.SetPeers([]netip.Addr{netip.MustParseAddr(peer4), netip.MustParseAddr(peer6)})
	l.Opened(&net.TCPAddr{IP: net.IPv4zero, Port: 7001})
	l.Opened(&net.UDPAddr{IP: net.IPv4zero, Port: 7002})
	l.OpenedPort(7003)
	l.OpenedPort(0)

	for _, host := range []string{own4, own6, peer4, peer6, via(t, own4), via(t, peer4), "::ffff:" + own4, "::ffff:" + peer4,
		"64:ff9b::a00:105", "64:ff9b::a00:106"} {
		for _, port := range []string{"9002", "6060", "41641", "7001", "7002", "7003"} {
			l.denies(t, true, net.JoinHostPort(host, port))
		}
		l.denies(t, false, net.JoinHostPort(host, "22"), net.JoinHostPort(host, "0"))
	}
	for _, host := range []string{other, via(t, other), "::ffff:" + other, "2600:1f18::7", "64:ff9b::a00:304"} {
		l.denies(t, false, net.JoinHostPort(host, "9002"), net.JoinHostPort(host, "41641"), net.JoinHostPort(host, "5432"))
	}
	for _, host := range []string{"169.254.170.2", via(t, "169.254.170.2"), "::ffff:169.254.170.2", "64:ff9b::a9fe:aa02", "fd00:ec2::254", "127.0.0.1", "::1"} {
		l.denies(t, true, net.JoinHostPort(host, "80"), net.JoinHostPort(host, "0"))
	}

	l.SetPeers(nil)
	l.denies(t, false, peer4+":9002")
	l.denies(t, true, own4+":9002")
}

// TestUnknownAddresses fails to read the host's addresses (EMFILE) from the start.
func TestUnknownAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		h.set(syscall.EMFILE)
		var log bytes.Buffer
		reg := prometheus.NewRegistry()
		l := newList(t, h, func(c *Config) { c.Logger, c.Registerer = slog.New(slog.NewTextHandler(&log, nil)), reg })
		l.denies(t, true, own4+":9002", other+":9002", "["+via(t, other)+"]:6060", "[2600:1f18::7]:41641")
		l.denies(t, false, other+":5432", own4+":22", own4+":0")
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, &log)
		}
		if n := testutil.CollectAndCount(reg, "router_own_address_read_failures_total"); n != 1 {
			t.Error("no failure was counted")
		}

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx, silent) }()
		time.Sleep(time.Minute)
		l.denies(t, true, other+":9002")
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings after a minute, want one for the transition:\n%s", n, &log)
		}
		h.set(nil, own4+"/24")
		time.Sleep(2 * retryEvery)
		l.denies(t, true, own4+":9002")
		l.denies(t, false, other+":9002")
		if !strings.Contains(log.String(), "known again") {
			t.Errorf("the log lacks the recovery:\n%s", &log)
		}
		cancel()
		<-done
	})
}

// silent watches a host whose addresses do not change.
func silent(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

// TestKeepsTheLast fails to read addresses after they were read once.
func TestKeepsTheLast(t *testing.T) {
	for _, c := range []struct {
		name  string
		watch func(*testing.T, chan struct{}) func(context.Context, func()) error
		event bool // a change is reported while reads fail
		want  bool // the port of another host is denied meanwhile
	}{
		{"nothing changed", watchOf, false, false},
		{"addresses changed", watchOf, true, true},
		{"changes are not reported", func(*testing.T, chan struct{}) func(context.Context, func()) error {
			return func(context.Context, func()) error { return errors.New("no netlink") }
		}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &host{}
				h.set(nil, own4+"/24")
				l := newList(t, h, nil)
				events := make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); l.run(ctx, c.watch(t, events)) }()
				time.Sleep(time.Second)
				h.set(syscall.EMFILE)
				if c.event {
					events <- struct{}{}
				}
				time.Sleep(3 * readEvery)
				l.denies(t, true, own4+":9002")
				l.denies(t, c.want, other+":9002")
				l.denies(t, false, other+":5432")
				h.set(nil, own4+"/24", "10.0.1.9/24")
				time.Sleep(readEvery + time.Second)
				l.denies(t, true, own4+":9002", "10.0.1.9:9002")
				l.denies(t, false, other+":9002")
				cancel()
				<-done
			})
		})
	}
}

func watchOf(_ *testing.T, events chan struct{}) func(context.Context, func()) error {
	return func(ctx context.Context, changed func()) error {
		for {
			changed()
			select {
			case <-events:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func TestNewAddressIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		h.set(nil, own4+"/24")
		changes := make(chan struct{}, 16)
		l := newList(t, h, func(c *Config) { c.Changed = func() { changes <- struct{}{} } })
		events := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx, watchOf(t, events)) }()
		time.Sleep(time.Second)
		for len(changes) > 0 {
			<-changes
		}
		h.set(nil, own4+"/24", "10.0.1.9/24")
		events <- struct{}{}
		synctest.Wait()
		l.denies(t, true, "10.0.1.9:9002")
		time.Sleep(2 * eventPause)
		if len(changes) == 0 {
			t.Error("Changed was not called")
		}
		cancel()
		<-done
	})
}

// TestEventStorm bounds the cost of a host whose addresses change continuously.
func TestEventStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		h.set(nil, own4+"/24")
		l := newList(t, h, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx, func(ctx context.Context, changed func()) error {
				for ctx.Err() == nil {
					changed()
					backoff.Sleep(ctx, time.Millisecond)
				}
				return nil
			})
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		reads := h.reads // before cancel, which ends the pause and may let one more read through
		cancel()
		<-done
		if limit := int(time.Second/eventPause) + 2; reads > limit {
			t.Errorf("%d reads in a second, want at most %d", reads, limit)
		}
	})
}

func TestTooManyPeers(t *testing.T) {
	h := &host{}
	h.set(nil, own4+"/24")
	var log bytes.Buffer
	l := newList(t, h, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	many := make([]netip.Addr, maxPeerAddrs+1)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
	}
	l.SetPeers(many)
	l.denies(t, true, own4+":9002", many[len(many)-1].String()+":9002", other+":9002")
	l.denies(t, false, other+":5432")
	if !strings.Contains(log.String(), "too many addresses") {
		t.Errorf("the log lacks the error:\n%s", &log)
	}
	l.SetPeers(many[:10])
	l.denies(t, false, other+":9002")
}

func TestMalformedListener(t *testing.T) {
	for _, address := range []string{"9002", "0.0.0.0:port", "0.0.0.0:70000"} {
		if _, err := New(Config{Listeners: []string{address}, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("New with the listener %q: %v, want an error that names it", address, err)
		}
	}
}

func TestDeniedDoesNotAllocate(t *testing.T) {
	h := &host{}
	h.set(nil, own4+"/24")
	l := newList(t, h, nil)
	targets := []netip.AddrPort{netip.MustParseAddrPort(own4 + ":9002"), netip.MustParseAddrPort(other + ":5432"),
		netip.AddrPortFrom(netip.MustParseAddr(via(t, own4)), 9002)}
	before := h.reads
	if n := testing.AllocsPerRun(1000, func() {
		for _, target := range targets {
			l.Denied(target)
		}
	}); n != 0 {
		t.Errorf("%v allocations per call, want 0", n)
	}
	if h.reads != before {
		t.Error("the check reads the host's addresses")
	}
}

// TestListens: the addresses of this router and of its peers listen, and while they are unknown, all may.
func TestListens(t *testing.T) {
	h := &host{}
	h.set(nil, own4+"/24")
	l := newList(t, h, nil)
	l.SetPeers([]netip.Addr{netip.MustParseAddr(peer4)})
	for a, want := range map[string]bool{own4: true, peer4: true, other: false, "::ffff:" + own4: true} {
		if got := l.Listens(netip.MustParseAddr(a)); got != want {
			t.Errorf("Listens(%s) = %v", a, got)
		}
	}
	h.set(errors.New("no files left"))
	if l := newList(t, h, nil); !l.Listens(netip.MustParseAddr(other)) {
		t.Error("an address is known not to listen while none is known")
	}
}

// TestAllPorts: a peer router may forward any port of its addresses into the tailnet.
func TestAllPorts(t *testing.T) {
	h := &host{}
	h.set(nil, own4+"/24")
	l := newList(t, h, func(c *Config) { c.AllPorts = true })
	l.denies(t, false, peer4+":22", own4+":22", other+":22")
	l.SetPeers([]netip.Addr{netip.MustParseAddr(peer4), netip.MustParseAddr(peer6)})
	l.denies(t, true, peer4+":22", "["+peer6+"]:22", own4+":9002", "["+via(t, peer4)+"]:22")
	l.denies(t, false, peer4+":0", own4+":22", other+":22")
	many := make([]netip.Addr, maxPeerAddrs+1)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
	}
	l.SetPeers(many)
	l.denies(t, true, other+":22")
}
