package routesource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
)

// zone is a resolver whose answers a test changes.
type zone struct {
	mu    sync.Mutex
	names map[string]entry
	looks map[string]int
}

type entry struct {
	addrs string // separated by blanks
	ttl   time.Duration
	err   error
}

func (z *zone) set(host string, e entry) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[host] = e
}

// looked returns the look-ups of a host since the last call.
func (z *zone) looked(host string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := z.looks[host]
	z.looks[host] = 0
	return n
}

func (z *zone) lookUp(_ context.Context, host string) (addrs []netip.Addr, ttl time.Duration, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.looks[host]++
	e, ok := z.names[host]
	if !ok {
		return nil, 0, &net.DNSError{IsNotFound: true}
	}
	for a := range strings.FieldsSeq(e.addrs) {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, e.ttl, e.err
}

// newNamed returns a finder of sources outside ECS, its resolver and its log.
func newNamed(t *testing.T, sources string) (*Finder, *zone, *bytes.Buffer) {
	t.Helper()
	list, err := Parse(sources)
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{names: map[string]entry{}, looks: map[string]int{}}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	f := New(Config{
		Sources: list, Logger: logger,
		Place:      place.New(place.Config{Logger: logger, LocalAddrs: func() ([]netip.Addr, error) { return nil, errors.New("unknown") }}),
		LookupHost: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("unknown") },
	})
	f.names.lookUp = z.lookUp
	return f, z, &log
}

// followNamed follows sources in a bubble of synctest.
func followNamed(t *testing.T, sources string, every time.Duration, inUse func(netip.Addr) bool, first func(*zone), story func(z *zone, now func() string, f *Follower)) {
	synctest.Test(t, func(t *testing.T) {
		f, z, _ := newNamed(t, sources)
		first(z)
		var mu sync.Mutex
		var applied []netip.Prefix
		w := f.Follow(Follow{Every: every, InUse: inUse, Apply: func(ps []netip.Prefix) {
			mu.Lock()
			defer mu.Unlock()
			applied = ps
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		synctest.Wait()
		story(z, func() string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return strings.Trim(fmt.Sprint(applied), "[]")
		}, w)
		cancel()
		<-done
	})
}

// TestNamesAreDamped: an address stays until it was missing twice and no flow uses it, and
// neither failures nor empty answers count.
func TestNamesAreDamped(t *testing.T) {
	const every = 5 * time.Minute
	var mu sync.Mutex
	used := map[string]bool{}
	use := func(a string, is bool) {
		mu.Lock()
		defer mu.Unlock()
		used[a] = is
	}
	inUse := func(a netip.Addr) bool {
		mu.Lock()
		defer mu.Unlock()
		return used[a.String()]
	}
	followNamed(t, "host:db.internal,10.0.0.0/24", every, inUse, func(z *zone) {
		z.set("db.internal", entry{addrs: "10.1.0.1 10.0.0.7"})
	}, func(z *zone, now func() string, f *Follower) {
		expect := func(step, want string) {
			t.Helper()
			if got := now(); got != want {
				t.Errorf("%s: advertised %s, want %s", step, got, want)
			}
		}
		// lookUp waits for the next look-up of the name.
		lookUp := func() {
			t.Helper()
			for z.looked("db.internal"); z.looked("db.internal") == 0; {
				time.Sleep(time.Second)
				synctest.Wait()
			}
		}
		expect("first", "10.0.0.0/24 10.1.0.1/32")

		use("10.1.0.1", true)
		z.set("db.internal", entry{addrs: "10.1.0.2"})
		lookUp()
		expect("missing once", "10.0.0.0/24 10.1.0.1/32 10.1.0.2/32")
		if why := f.Now().Routes.SourceOf(netip.MustParsePrefix("10.1.0.1/32")); !strings.Contains(why, "missing") {
			t.Errorf("the missing route is explained as %q", why)
		}
		for range 5 {
			lookUp()
		}
		expect("missing, in use", "10.0.0.0/24 10.1.0.1/32 10.1.0.2/32")

		for name, e := range map[string]entry{
			"failure": {err: &net.DNSError{Err: "server misbehaving"}}, "empty": {}, "timeout": {err: context.DeadlineExceeded},
		} {
			z.set("db.internal", e)
			for range 3 {
				lookUp()
			}
			expect(name, "10.0.0.0/24 10.1.0.1/32 10.1.0.2/32")
			if notes := f.Now().Routes.Notes; len(notes) != 1 || !strings.Contains(notes[0], "its last addresses stay") || f.Now().Err != nil {
				t.Errorf("%s: notes %q, %v", name, notes, f.Now().Err)
			}
		}
		use("10.1.0.1", false)
		lookUp()
		expect("flow ended", "10.0.0.0/24 10.1.0.2/32")

		z.set("db.internal", entry{addrs: "10.1.0.3"})
		lookUp()
		z.set("db.internal", entry{addrs: "10.1.0.2"}) // back in time
		lookUp()
		z.set("db.internal", entry{addrs: "10.1.0.3"})
		lookUp()
		expect("missing again, for the first time", "10.0.0.0/24 10.1.0.2/32 10.1.0.3/32")
		lookUp()
		expect("missing twice", "10.0.0.0/24 10.1.0.3/32")
	})
}

// TestNamesAreFollowedByTTL: the shortest TTL decides how often the names are looked up, within
// bounds; an unknown one leaves it at the refresh.
func TestNamesAreFollowedByTTL(t *testing.T) {
	for _, test := range []struct {
		ttl         time.Duration
		err         error
		least, most int // look-ups in an hour
	}{
		{0, nil, 11, 14},
		{time.Second, nil, 218, 267}, // every 15 s
		{15 * time.Second, nil, 218, 267},
		{time.Minute, nil, 54, 72},
		{time.Hour, nil, 11, 14},
		{0, errors.New("server misbehaving"), 218, 267},
	} {
		followNamed(t, "host:db.internal,10.0.0.0/24", 5*time.Minute, nil, func(z *zone) {
			z.set("db.internal", entry{addrs: "10.1.0.1", ttl: test.ttl})
		}, func(z *zone, now func() string, f *Follower) {
			if test.err != nil {
				z.set("db.internal", entry{err: test.err})
			}
			time.Sleep(6 * time.Minute)
			z.looked("db.internal")
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := z.looked("db.internal"); n < test.least || n > test.most {
				t.Errorf("TTL %v, %v: %d look-ups in an hour, want %d to %d", test.ttl, test.err, n, test.least, test.most)
			}
			if got := now(); got != "10.0.0.0/24 10.1.0.1/32" {
				t.Errorf("TTL %v: advertised %s", test.ttl, got)
			}
		})
	}
}

// source is a source that finds a prefix and a name, unless it fails.
type source struct{ down *atomic.Bool }

func (source) String() string    { return "test" }
func (source) kind() *Kind       { return vpc }
func (source) Needs() []iam.Need { return nil }
func (s source) find(context.Context, *place.Finder) (f finding, err error) {
	if s.down.Load() {
		return f, errors.New("AWS is down")
	}
	f.add(FromAWS, "test", netip.MustParsePrefix("10.0.0.0/24"))
	f.follow("db.internal", "test")
	return f, nil
}

// TestNamesAreFollowedWithoutAWS: a fail-over during an outage of AWS's API is followed, and
// the failure is still reported.
func TestNamesAreFollowedWithoutAWS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, z, log := newNamed(t, "host:db.internal")
		var down atomic.Bool
		f.config.Sources = []Source{source{&down}}
		z.set("db.internal", entry{addrs: "10.1.0.1"})
		var mu sync.Mutex
		var applied []netip.Prefix
		w := f.Follow(Follow{Every: 5 * time.Minute, Apply: func(ps []netip.Prefix) {
			mu.Lock()
			defer mu.Unlock()
			applied = ps
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		synctest.Wait()
		found := w.Now().Found
		down.Store(true)
		z.set("db.internal", entry{addrs: "10.1.0.2"})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		if got := fmt.Sprint(applied); got != "[10.0.0.0/24 10.1.0.2/32]" {
			t.Errorf("advertised %s", got)
		}
		mu.Unlock()
		if now := w.Now(); now.Err == nil || now.Since.IsZero() || now.Found != found || len(now.Routes.Advertise) != 2 {
			t.Errorf("during the outage: %+v", now)
		}
		down.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if now := w.Now(); now.Err != nil || !now.Found.After(found) {
			t.Errorf("after the outage: %+v", now)
		}
		cancel()
		<-done
		for _, line := range []string{"route added\" prefix=10.1.0.2/32", "route removed\" prefix=10.1.0.1/32"} {
			if strings.Count(log.String(), line) != 1 {
				t.Errorf("the log does not have %q once:\n%s", line, log)
			}
		}
		if strings.Count(log.String(), "looking up routes failed") != 1 || strings.Count(log.String(), "works again") != 1 {
			t.Errorf("the log has\n%s", log)
		}
	})
}

// TestNamesOnlyLookUpsKeepOtherRoutes: a look-up of names in between does not count for the
// routes of other sources.
func TestNamesOnlyLookUpsKeepOtherRoutes(t *testing.T) {
	f, _, _ := newNamed(t, "host:db.internal")
	w := f.Follow(Follow{Every: time.Minute})
	vpc := Route{Prefix: netip.MustParsePrefix("10.0.0.0/16"), Origin: FromAWS}
	w.last = []Route{vpc}
	if got := w.withMissing(nil, false); len(got) != 1 || got[0].missing {
		t.Errorf("a look-up of names makes the route missing: %v", got)
	}
	vpc.missing = true
	w.last = []Route{vpc}
	if got := w.withMissing(nil, false); len(got) != 1 {
		t.Error("a look-up of names withdraws a route of another source")
	}
	if got := w.withMissing(nil, true); len(got) != 0 {
		t.Error("a whole look-up keeps a route that was missing twice")
	}
}

// TestHostileNames: answers are bounded, by name and together, and old addresses are not
// displaced by new ones.
func TestHostileNames(t *testing.T) {
	addrs := func(net, n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("10.%d.%d.%d", net, i/250, i%250+1))
		}
		return strings.Join(list, " ")
	}
	var sources []string
	for i := range 12 {
		sources = append(sources, fmt.Sprintf("host:n%d.internal", i))
	}
	f, z, _ := newNamed(t, strings.Join(sources, ","))
	for i := range 12 {
		z.set(fmt.Sprintf("n%d.internal", i), entry{addrs: addrs(i, 5000)})
	}
	r, err := f.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Advertise) != maxNameRoutes || len(r.Refused) != 12*maxNameAddrs-maxNameRoutes || len(r.Notes) != 12 {
		t.Errorf("%d routes, %d refused, %d notes", len(r.Advertise), len(r.Refused), len(r.Notes))
	}
	if why := r.Refused[0].Reason; !strings.Contains(why, "more than 256 addresses") {
		t.Errorf("refused because %q", why)
	}

	// What the data path denies is refused, and the list of refusals is bounded.
	f, z, _ = newNamed(t, "10.9.0.0/16,"+strings.Join(sources, ","))
	for i := range 12 {
		var list []string
		for j := range maxNameAddrs {
			list = append(list, fmt.Sprintf("169.254.%d.%d", i, j))
		}
		z.set(fmt.Sprintf("n%d.internal", i), entry{addrs: strings.Join(list, " ")})
	}
	r, err = f.Routes(t.Context())
	if err != nil || len(r.Advertise) != 1 || len(r.Refused) != maxNameRefusals || !slices.Contains(r.Notes, "128 more addresses of names are refused") {
		t.Errorf("%d routes, %d refused, %q, %v", len(r.Advertise), len(r.Refused), r.Notes, err)
	}

	// Too many names.
	var all finding
	for i := range maxNames + 3 {
		all.follow(fmt.Sprintf("x%d.internal", i), "test")
	}
	all.follow("not a name", "test")
	all.add(FromOperator, "test", netip.MustParsePrefix("10.9.0.0/16"))
	all, _, err = f.names.resolve(t.Context(), all)
	if err != nil || !strings.HasPrefix(all.notes[0], "3 of 515 names are not looked up") || len(f.names.good) != 0 {
		t.Errorf("%v, %v", all.notes[0], err)
	}
}

func TestNewAddressesDoNotDisplaceOldOnes(t *testing.T) {
	f, _, _ := newNamed(t, "host:db.internal")
	w := f.Follow(Follow{Every: time.Minute})
	route := func(p string, o Origin) Route { return Route{Prefix: netip.MustParsePrefix(p), Origin: o} }
	old := route("10.9.0.9/32", FromName)
	w.last = []Route{old}
	got := w.knownFirst([]Route{route("10.1.0.0/16", FromAWS), route("10.0.0.1/32", FromName), old, route("10.2.0.0/16", FromAWS)})
	if want := "[{10.1.0.0/16 0  false} {10.2.0.0/16 0  false} {10.9.0.9/32 3  false} {10.0.0.1/32 3  false}]"; fmt.Sprint(fields(got)) != want {
		t.Errorf("got %v, want %v", fields(got), want)
	}
}

// fields returns routes as their fields, not by their String method.
func fields(routes []Route) (list []string) {
	for _, r := range routes {
		list = append(list, fmt.Sprintf("{%s %d %s %v}", r.Prefix, r.Origin, r.Source, r.missing))
	}
	return list
}

// TestNoNameResolves: without any route the look-up fails, and names the cause.
func TestNoNameResolves(t *testing.T) {
	f, _, _ := newNamed(t, "host:db.internal,host:other.internal")
	_, err := f.Routes(t.Context())
	if err == nil || !strings.Contains(err.Error(), "resolving db.internal failed: no such host") || !strings.Contains(err.Error(), "other.internal") {
		t.Errorf("got %v", err)
	}
}

// TestTTLs reads the TTLs of DNS messages.
func TestTTLs(t *testing.T) {
	message := func(h dnsmessage.Header, ttl ...uint32) []byte {
		m := dnsmessage.Message{Header: h}
		name := dnsmessage.MustNewName("db.internal.")
		m.Questions = []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
		for _, s := range ttl {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: s}, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}})
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	answered := dnsmessage.Header{Response: true}
	for name, test := range map[string]struct {
		messages [][]byte
		want     time.Duration
	}{
		"none":      {nil, 0},
		"no answer": {[][]byte{message(answered)}, 0},
		"shortest":  {[][]byte{message(answered, 60, 5, 300), message(answered), message(answered, 30)}, 5 * time.Second},
		"zero":      {[][]byte{message(answered, 0)}, time.Second},
		"too long":  {[][]byte{message(answered, 1<<32-1)}, 7 * 24 * time.Hour},
		"a query":   {[][]byte{message(dnsmessage.Header{}, 5)}, 0},
		"a failure": {[][]byte{message(dnsmessage.Header{Response: true, RCode: dnsmessage.RCodeServerFailure}, 5)}, 0},
		"garbage":   {[][]byte{[]byte("x"), message(answered, 5)[:30]}, 0},
	} {
		var seen ttls
		for _, m := range test.messages {
			seen.record(m)
		}
		if got := seen.shortest(); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// TestLookUpReportsTTL resolves a name with Go's resolver against a DNS server.
func TestLookUpReportsTTL(t *testing.T) {
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, client, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 5}, Body: &dnsmessage.AResource{A: [4]byte{10, 1, 2, 3}}}}
			}
			if b, err := m.Pack(); err == nil {
				server.WriteToUDPAddrPort(b, client)
			}
		}
	}()
	d := dial(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	})
	addrs, ttl, err := d.lookUp(t.Context(), "db.example.com")
	if err != nil || ttl != 5*time.Second || len(addrs) != 1 || addrs[0] != netip.MustParseAddr("10.1.2.3") {
		t.Errorf("got %v, %v, %v", addrs, ttl, err)
	}
}
