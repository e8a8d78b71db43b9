package tailnet

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tailscale.com/ipn"
)

// TestRoleRoutes: routes of roles are advertised next to the node's own, and stay when those are
// held back, withdrawn or refreshed.
func TestRoleRoutes(t *testing.T) {
	var edits [][]netip.Prefix
	n := startNode(t, startTailnet(t, withConnector(nil)), give(testKey), func(c *Config) { c.ExitNode, c.AppConnector = true, true })
	own, learned := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("198.51.100.7/32")
	n.learnFrom(t, learned.Addr())
	awaitStatus(t, n, "the learned route", func(s *Status) bool { return slices.Equal(s.Learned, []netip.Prefix{learned}) })
	n.mu.Lock()
	edit := n.editPrefs
	n.editPrefs = func(p *ipn.MaskedPrefs) error {
		edits = append(edits, p.AdvertiseRoutes) // announce's goroutine; read once it is idle
		return edit(p)
	}
	n.mu.Unlock()
	n.Advertise([]netip.Prefix{own})
	awaitStatus(t, n, "all routes", func(s *Status) bool {
		return slices.Equal(s.Advertised, []netip.Prefix{own}) && s.ExitNode.Advertised && slices.Equal(s.Learned, []netip.Prefix{learned})
	})
	n.HoldBack(true)
	awaitStatus(t, n, "the roles' routes", func(s *Status) bool { return len(s.Advertised) == 0 && s.ExitNode.Advertised })
	n.HoldBack(false)
	other := netip.MustParsePrefix("10.1.0.0/16")
	n.Advertise([]netip.Prefix{other})
	awaitStatus(t, n, "other routes", func(s *Status) bool { return slices.Equal(s.Advertised, []netip.Prefix{other}) })
	if err := n.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, e := range edits {
		if !containsAll(e, append(ExitRoutes(), learned)) {
			t.Errorf("announcement %d lacks routes of roles: %v", i, e)
		}
	}
	if len(edits) < 4 || !slices.Contains(edits[0], own) {
		t.Errorf("the announcements are %v", edits)
	}
}

func TestReadQuery(t *testing.T) {
	post := func(contentType string, body []byte) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/dns-query", bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		return r
	}
	get := func(dns string) *http.Request { return httptest.NewRequest(http.MethodGet, "/dns-query?dns="+dns, nil) }
	query := []byte("a query")
	for name, tt := range map[string]struct {
		r  *http.Request
		ok bool
	}{
		"POST":               {post(dnsMessage, query), true},
		"GET":                {get(base64.RawURLEncoding.EncodeToString(query)), true},
		"no query":           {get(""), false},
		"not base64":         {get("%20"), false},
		"a large GET":        {get(strings.Repeat("A", 2*maxDNSMessage)), false},
		"a large POST":       {post(dnsMessage, make([]byte, maxDNSMessage+1)), false},
		"another type":       {post("text/plain", query), false},
		"without a type":     {post("", query), false},
		"a form for humans":  {httptest.NewRequest(http.MethodGet, "/dns-query?q=example.com", nil), false},
		"an unexpected verb": {httptest.NewRequest(http.MethodPut, "/dns-query", bytes.NewReader(query)), false},
	} {
		got, err := readQuery(tt.r)
		if (err == nil) != tt.ok || tt.ok && !bytes.Equal(got, query) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestExcluded(t *testing.T) {
	list := []string{"internal.example", ".corp.example", ""}
	for name, want := range map[string]bool{
		"internal.example.": true, "Internal.Example": true, "a.internal.example": false, "a.corp.example.": true,
		"corp.example": false, "acorp.example": false, "example.com": false, "": false,
	} {
		if got := excluded(name, list); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// fakeConn is a connection with a remote address.
type fakeConn struct {
	net.Conn
	from   string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}
func (c *fakeConn) Close() error { c.closed = true; return nil }

func TestPeerConnectionsAreBounded(t *testing.T) {
	counts := connCounts{perPeer: map[netip.Addr]int{}}
	var conns []*fakeConn
	open := func(from string) *fakeConn {
		c := &fakeConn{from: from}
		counts.changed(c, http.StateNew)
		counts.changed(c, http.StateActive)
		conns = append(conns, c)
		return c
	}
	for i := range maxConnsPerPeer {
		if open(fmt.Sprintf("100.64.0.1:%d", 1000+i)).closed {
			t.Fatalf("connection %d of a peer was closed", i)
		}
	}
	if !open("100.64.0.1:2000").closed {
		t.Error("a peer has more connections than its share")
	}
	if open("100.64.0.2:1000").closed {
		t.Error("another peer has no connection")
	}
	for i := range maxPeerConns {
		open(fmt.Sprintf("100.65.%d.%d:1000", i>>8, i&255))
	}
	if !open("100.64.0.3:1000").closed {
		t.Error("there are more connections than allowed")
	}
	for _, c := range conns {
		counts.changed(c, http.StateClosed)
	}
	if counts.total != 0 || len(counts.perPeer) != 0 {
		t.Errorf("after all have closed: %d connections of %d peers", counts.total, len(counts.perPeer))
	}
}
