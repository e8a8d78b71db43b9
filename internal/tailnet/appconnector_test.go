package tailnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"golang.org/x/net/dns/dnsmessage"
	"tailscale.com/tailcfg"
	"tailscale.com/types/appctype"
)

const testDomain = "app.example"

// withConnector adds testDomain to the policy, for the connectors with testTag.
func withConnector(edit func(*tailnettest.Config)) func(*tailnettest.Config) {
	return func(c *tailnettest.Config) {
		c.Policy.AppConnectors = []tailnettest.AppConnector{{Domains: []string{testDomain}, Connectors: []string{testTag}}}
		if edit != nil {
			edit(c)
		}
	}
}

// learnFrom passes the node an answer for testDomain, once it has the policy.
func (n *Node) learnFrom(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	testwait.Until(t, "the policy for the app connector", func() error {
		if len(n.connector.byName()) == 0 {
			return errors.New("no domains")
		}
		return nil
	})
	if _, err := n.connector.learn(answerFor(t, testDomain, addrs...), time.Now()); err != nil {
		t.Fatal(err)
	}
	n.wakeAnnouncer()
}

// connectorFor returns an app connector with a policy.
func connectorFor(t *testing.T, attr appctype.AppConnectorAttr, exclude ...netip.Prefix) *appConnector {
	t.Helper()
	a := &appConnector{exclude: exclude}
	setPolicy(t, a, attr)
	return a
}

func setPolicy(t *testing.T, a *appConnector, attr appctype.AppConnectorAttr) {
	t.Helper()
	attr.Connectors = []string{testTag}
	value, err := json.Marshal(attr)
	if err != nil {
		t.Fatal(err)
	}
	self := &tailcfg.Node{Tags: []string{testTag}, CapMap: tailcfg.NodeCapMap{AppConnectorCapability: {tailcfg.RawMessage(value)}}}
	if _, err := a.setPolicy(self); err != nil {
		t.Fatal(err)
	}
}

// answerFor returns a DNS answer with the addresses of a name.
func answerFor(t testing.TB, name string, addrs ...netip.Addr) []byte {
	t.Helper()
	return packAnswer(t, addressesOf(name, addrs...)...)
}

func addressesOf(name string, addrs ...netip.Addr) (list []dnsmessage.Resource) {
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Class: dnsmessage.ClassINET}
	for _, a := range addrs {
		if a.Is4() {
			list = append(list, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		} else {
			list = append(list, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return list
}

func alias(from, to string) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(from + "."), Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to + ".")},
	}
}

func packAnswer(t testing.TB, records ...dnsmessage.Resource) []byte {
	t.Helper()
	m := dnsmessage.Message{Response: true, Answers: records}
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func learn(t *testing.T, a *appConnector, now time.Time, answer []byte) bool {
	t.Helper()
	changed, err := a.learn(answer, now)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// TestConnectorRefusesAddresses: the answers of a domain cannot make the node advertise an address that
// it must never advertise, that is excluded, or that is in its own routes.
func TestConnectorRefusesAddresses(t *testing.T) {
	a := connectorFor(t, appctype.AppConnectorAttr{
		Domains: []string{testDomain}, Routes: prefixes("203.0.113.0/24", "100.64.0.0/16", "0.0.0.0/0", "192.0.2.0/25", "10.0.1.0/24"),
	}, prefixes("198.51.100.0/28", "192.0.2.0/26")...)
	learn(t, a, time.Now(), answerFor(t, testDomain, addrs("169.254.169.254", "127.0.0.1", "100.100.100.100", "100.64.0.9", "0.0.0.0", "255.255.255.255",
		"224.0.0.1", "fd7a:115c:a1e0::1", "fd00:ec2::254", "fe80::1", "::1", "::", "::ffff:192.0.2.200", "198.51.100.7", "10.0.0.8", "203.0.113.9",
		"198.51.100.99", "2001:db8::1")...))
	if got, want := a.list(prefixes("10.0.0.0/16")), prefixes("192.0.2.64/26", "198.51.100.99/32", "203.0.113.0/24", "2001:db8::1/128"); !slices.Equal(got, want) {
		t.Errorf("the routes are %v, want %v", got, want)
	}
}

// TestConnectorFollowsNames: addresses count for a domain of the policy, also by its CNAMEs, and for as
// long as the policy has it.
func TestConnectorFollowsNames(t *testing.T) {
	a := connectorFor(t, appctype.AppConnectorAttr{Domains: []string{"App.Example", "*.wild.example"}})
	now := time.Now()
	learn(t, a, now, packAnswer(t, append([]dnsmessage.Resource{alias("app.example", "a.cdn.example"), alias("a.cdn.example", "b.cdn.example")},
		addressesOf("B.cdn.example", addrs("198.51.100.1")...)...)...))
	learn(t, a, now, answerFor(t, "x.wild.example", addrs("198.51.100.2")...))
	for _, name := range []string{"wild.example", "other.example", "xapp.example", "a.app.example", "b.cdn.example", "xwild.example"} {
		if learn(t, a, now, answerFor(t, name, addrs("198.51.100.3")...)) {
			t.Errorf("an address of %s was learned", name)
		}
	}
	if learn(t, a, now, answerFor(t, "app.example", addrs("198.51.100.1")...)) {
		t.Error("a known address changed the routes")
	}
	learn(t, a, now, packAnswer(t, append([]dnsmessage.Resource{alias("l1.example", "l2.example"), alias("l2.example", "l1.example")}, addressesOf("l1.example", addrs("198.51.100.4")...)...)...))
	if got, want := a.list(nil), prefixes("198.51.100.1/32", "198.51.100.2/32"); !slices.Equal(got, want) {
		t.Errorf("the routes are %v, want %v", got, want)
	}
	if got := a.byName(); !slices.Equal(got["app.example"], addrs("198.51.100.1")) || !slices.Equal(got["x.wild.example"], addrs("198.51.100.2")) || len(got) != 2 {
		t.Errorf("by name: %v", got)
	}
	setPolicy(t, a, appctype.AppConnectorAttr{Domains: []string{"app.example"}})
	if got, want := a.list(nil), prefixes("198.51.100.1/32"); !slices.Equal(got, want) {
		t.Errorf("without a domain the routes are %v, want %v", got, want)
	}
}

// TestConnectorIsBounded: a domain with many addresses neither passes the bound nor takes the places of
// other domains, and addresses without recent answers make room.
func TestConnectorIsBounded(t *testing.T) {
	a := connectorFor(t, appctype.AppConnectorAttr{Domains: []string{"*.greedy.example", testDomain}, Routes: prefixes("203.0.113.0/24")})
	now := time.Now()
	greedy := func(third byte, now time.Time) {
		for i := range 5 {
			var list []netip.Addr
			for j := range 250 {
				list = append(list, netip.AddrFrom4([4]byte{198, third, byte(i), byte(j)}))
			}
			learn(t, a, now, answerFor(t, fmt.Sprintf("h%d.greedy.example", i), list...))
		}
	}
	if greedy(51, now); len(a.addresses) != MaxLearned || len(a.list(nil)) != MaxLearned || !slices.Contains(a.list(nil), netip.MustParsePrefix("203.0.113.0/24")) {
		t.Errorf("%d addresses, %d routes", len(a.addresses), len(a.list(nil)))
	}
	if !a.full(now) {
		t.Error("the connector is not reported as full")
	}
	other := addrs("192.0.2.1", "192.0.2.2")
	learn(t, a, now, answerFor(t, testDomain, other...))
	if got := a.byName()[testDomain]; !slices.Equal(got, other) || len(a.addresses) != MaxLearned {
		t.Errorf("another domain has %v, of %d addresses", got, len(a.addresses))
	}
	if greedy(52, now.Add(learnedFor/2)); len(a.list(nil)) != MaxLearned || slices.Contains(a.list(nil), netip.MustParsePrefix("198.52.0.0/32")) {
		t.Error("an address with a recent answer made room")
	}
	later := now.Add(learnedFor)
	if greedy(53, later); len(a.addresses) != MaxLearned || !slices.Equal(a.byName()[testDomain], other) || a.addresses[netip.MustParseAddr("198.53.0.0")] == nil {
		t.Errorf("old addresses made no room, or those of another domain did: %d, %v", len(a.addresses), a.byName()[testDomain])
	}
	if a.full(later.Add(learnedFor)) {
		t.Error("the connector is still reported as full")
	}
}

func FuzzConnectorLearn(f *testing.F) {
	f.Add(answerFor(f, testDomain, addrs("198.51.100.1", "169.254.169.254")...))
	f.Add(packAnswer(f, append([]dnsmessage.Resource{alias(testDomain, "b.example")}, addressesOf("b.example", addrs("2001:db8::1")...)...)...))
	f.Fuzz(func(t *testing.T, answer []byte) {
		a := connectorFor(t, appctype.AppConnectorAttr{Domains: []string{testDomain, "*.example"}})
		a.learn(answer, time.Now())
		for _, p := range a.list(nil) {
			if !p.IsSingleIP() || len(a.allowed([]netip.Prefix{p})) == 0 {
				t.Errorf("%v was learned", p)
			}
		}
	})
}

// TestWithdrawKeepsLearnedRoutes: the withdrawal does not wait for learned routes, which stay and for
// which control has elected this node.
func TestWithdrawKeepsLearnedRoutes(t *testing.T) {
	learned := netip.MustParsePrefix("198.51.100.7/32")
	control := startTailnet(t, withConnector(func(c *tailnettest.Config) {
		c.Policy.AutoApprovers = map[string][]netip.Prefix{testTag: append(slices.Clone(testRoutes), learned)}
	}))
	n := startNode(t, control, give(testKey), func(c *Config) { c.AppConnector = true })
	n.learnFrom(t, learned.Addr())
	n.Advertise(testRoutes)
	awaitStatus(t, n, "the routes to be primary", func(s *Status) bool {
		return len(s.Primary) >= len(testRoutes) && slices.Contains(s.elected, learned) && slices.Contains(s.Learned, learned)
	})
	if s, _ := n.Status(); slices.Contains(s.Primary, learned) {
		t.Errorf("primary %v", s.Primary)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := n.Withdraw(ctx); err != nil {
		t.Error(err)
	}
}

// TestEngineRoutesAreUndone: the engine's own changes of the routes do not last.
func TestEngineRoutesAreUndone(t *testing.T) {
	n := startNode(t, startTailnet(t, withConnector(nil)), give(testKey), func(c *Config) { c.AppConnector = true })
	n.Advertise(testRoutes)
	awaitStatus(t, n, "the routes", func(s *Status) bool { return len(s.Advertised) == len(testRoutes) })
	has := func(want ...netip.Prefix) func() error {
		return func() error {
			if got := n.lb.Prefs().AdvertiseRoutes().AsSlice(); !slices.Equal(slices.SortedFunc(slices.Values(got), netip.Prefix.Compare), slices.SortedFunc(slices.Values(want), netip.Prefix.Compare)) {
				return fmt.Errorf("the engine has %v", got)
			}
			return nil
		}
	}
	if err := n.lb.AdvertiseRoute(netip.MustParsePrefix("169.254.169.254/32")); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the routes without the engine's", has(testRoutes...))
	if err := n.lb.UnadvertiseRoute(testRoutes[0]); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the routes with the one that the engine removed", has(testRoutes...))
	if err := n.Withdraw(testwait.Context(t)); err != nil {
		t.Fatal(err)
	}
	if err := n.lb.AdvertiseRoute(testRoutes...); err != nil { // a stale list
		t.Fatal(err)
	}
	testwait.Until(t, "no routes", has())
}

// TestPeerDNSIsAdmitted: a query beyond the share of its peer is refused, and asks nothing.
func TestPeerDNSIsAdmitted(t *testing.T) {
	control := startTailnet(t, withConnector(nil))
	var asked []netip.Addr
	n := startNode(t, control, give(testKey), func(c *Config) {
		c.AppConnector = true
		c.AdmitPeerDNS = func(peer netip.Addr) (func(), bool) { asked = append(asked, peer); return nil, false }
	})
	peer := startNode(t, control, give(testKey), nil)
	from := awaitStatus(t, peer, "the peer", func(s *Status) bool { return s.Running() }).IPs[0]
	testwait.Until(t, "the access rules", func() error {
		if !n.mayUseInternet(from) {
			return errors.New("the peer may not use the connector")
		}
		return nil
	})
	r := httptest.NewRequest(http.MethodPost, "http://peer/dns-query", bytes.NewReader([]byte("a query")))
	r.Header.Set("Content-Type", dnsMessage)
	_, code := (&peerAPI{node: n}).answer(r, netip.AddrPortFrom(from, 1000))
	if code != http.StatusTooManyRequests || code.result() != PeerDNSLimited || !slices.Equal(asked, []netip.Addr{from}) {
		t.Errorf("status %d, result %s, asked about %v", code, code.result(), asked)
	}
}
