package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestAskers(t *testing.T) {
	a, b := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	now := time.Now()
	var all askers
	ask := func(peer netip.Addr) bool {
		ok := all.begin(peer, now)
		if ok {
			all.end()
		}
		return ok
	}
	for i := range whyOwnMost {
		if !ask(a) {
			t.Fatalf("question %d of a peer was refused", i)
		}
	}
	if ask(a) {
		t.Error("one peer may ask without limit")
	}
	if !ask(b) || !ask(netip.Addr{}) {
		t.Error("one peer's questions count for another, or for this host")
	}
	now = now.Add(whyOwn)
	if !ask(a) || ask(a) {
		t.Error("a peer does not get one question for each interval")
	}
	for range 2 * whyBurst {
		ask(netip.Addr{})
	}
	if ask(netip.Addr{}) || ask(b) {
		t.Error("all together may ask without limit")
	}
	now = now.Add(time.Hour)
	for i := range whyAtOnce {
		if !all.begin(netip.Addr{}, now) {
			t.Errorf("question %d at once was refused", i)
		}
	}
	if all.begin(netip.Addr{}, now) {
		t.Error("there is no limit of questions at once")
	}
	for range whyAtOnce {
		all.end()
	}
	// The table of peers is bounded, and forgets those that were silent.
	addr := netip.MustParseAddr("fd7a::1")
	for range 3 * maxAskers {
		addr = addr.Next()
		now = now.Add(time.Second)
		ask(addr)
		if len(all.peers) > maxAskers {
			t.Fatalf("%d peers are remembered", len(all.peers))
		}
	}
	if !ask(addr.Next()) {
		t.Error("a new peer is refused for good")
	}
}

// peerListener accepts connections as those of a peer of the tailnet.
type peerListener struct{ net.Listener }

type peerConn struct{ net.Conn }

func (l peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return peerConn{c}, err
}

func (peerConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(100, 64, 0, 7), Port: 1} }
func (peerConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(100, 64, 0, 9), Port: 9002} }

// serveWhy serves /why on loopback and, as on the tailnet, on a listener whose peers have grants.
func serveWhy(t *testing.T, mayRead, mayProbe *atomic.Bool) (local, tailnet string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	s, err := Listen(Config{
		Listen: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
		Live: func() error { return nil }, NotReady: func() []Reason { return nil }, Status: func() Status { return Status{} },
		Why: func(_ context.Context, q WhyQuestion) (any, error) {
			asked.Add(1)
			if q.Target == "" {
				return nil, errors.New("no target")
			}
			return q, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go s.Serve(ctx)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.ServeTailnet(ctx, peerListener{ln}, TailnetAccess{
		Allowed: func(netip.Addr) bool { return mayRead.Load() }, Names: func() []string { return []string{"edge"} }, Fix: "no read",
		MayProbe: func(netip.Addr) bool { return mayProbe.Load() }, ProbeFix: "no probe",
	})
	return "http://" + s.Addr().String(), "http://" + ln.Addr().String(), asked
}

func TestWhy(t *testing.T) {
	var mayRead, mayProbe atomic.Bool
	local, tailnet, asked := serveWhy(t, &mayRead, &mayProbe)
	post := func(url string, header ...string) string {
		t.Helper()
		req, _ := http.NewRequest(http.MethodPost, url, nil)
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				req.Host = header[i+1]
			}
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(body))
	}
	const question = "/why?target=10.0.3.4:80&from=laptop&protocol=udp"
	expect := func(got, want string) {
		t.Helper()
		if !strings.HasPrefix(got, want[:3]) || !strings.Contains(got, want[4:]) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	expect(post(local+question), `200 "From": "laptop"`)
	expect(post(local+"/why"), "400 no target")
	answered := asked.Load()
	for _, header := range [][]string{{"Host", "rebound.example.com"}, {"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://example.com"}} {
		expect(post(local+question, header...), "403 ")
	}
	if resp, err := http.Get(local + question); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v", resp, err)
	}
	// The header by which the page shows its field.
	field := func(url, want string) {
		t.Helper()
		if resp, err := http.Get(url + "/status"); err != nil || resp.Header.Get(whyHeader) != want {
			t.Errorf("status: %v, %v, want %s: %q", resp, err, whyHeader, want)
		}
	}
	field(local, "yes")
	expect(post(tailnet+question), "403 no read")
	mayRead.Store(true)
	expect(post(tailnet+question), "403 no probe")
	field(tailnet, "")
	mayRead.Store(false)
	mayProbe.Store(true)
	expect(post(tailnet+question), "403 no read")
	if n := asked.Load(); n != answered {
		t.Errorf("%d refused questions were answered", n-answered)
	}
	mayRead.Store(true)
	field(tailnet, "yes")
	for range whyOwnMost {
		expect(post(tailnet+question), `200 "Protocol": "udp"`)
	}
	expect(post(tailnet+question), "429 too many")
}
