package router

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/splitdns"
	"subnetrouter/internal/tailnettest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const dnsEvery = 5 * time.Minute

// dnsWorld is a tailnet whose API the registrars of a test call.
type dnsWorld struct {
	net    *tailnettest.Tailnet
	client tailnettest.OAuthClient
	log    bytes.Buffer // safe: all registrars share the handler, which has a lock
	lines  slog.Handler
}

func newDNSWorld(t *testing.T, prepare func(*tailnettest.OAuthClient)) *dnsWorld {
	t.Helper()
	w := &dnsWorld{client: tailnettest.NewOAuthClient("tag:subnet-router")}
	w.client.DNS = true
	if prepare != nil {
		prepare(&w.client)
	}
	var err error
	if w.net, err = tailnettest.Start(tailnettest.Config{API: tailnettest.API{Clients: []tailnettest.OAuthClient{w.client}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.net.Close() })
	return w
}

// registrar returns a registrar of a router with a resolver; key is its credential.
func (w *dnsWorld) registrar(key, resolver string, zones ...string) *dnsRegistrar {
	boot := bootstrap.New(bootstrap.Config{
		Credential: credential.Settings{AuthKey: secret.String(key), APIURL: "http://api.invalid", Tags: w.client.Tags},
		Transport:  wire{api: w.net.APIHandler()},
	})
	own := splitdns.Own{Nameserver: netip.MustParseAddr(resolver), Domains: zones}
	if w.lines == nil {
		w.lines = slog.NewJSONHandler(&w.log, nil)
	}
	log := slog.New(w.lines)
	return newDNSRegistrar(true, boot, func() (splitdns.Own, string) { return own, "" }, log, prometheus.NewRegistry())
}

func (w *dnsWorld) servers(domain string) (list []string) {
	for _, n := range w.net.SplitDNS()[domain] {
		list = append(list, n.Address)
	}
	return list
}

// whileRunning calls f in simulated time while registrars run.
func whileRunning(t *testing.T, f func(*testing.T), registrars ...func() *dnsRegistrar) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, start := range registrars {
			d := start()
			running.Go(func() { d.run(ctx, dnsEvery) })
		}
		f(t)
		cancel()
		running.Wait()
	})
}

// TestDNSRegistrationOfADay: the nameserver is added next to those of others, added again after
// someone removed it, and the calls of a day are few.
func TestDNSRegistrationOfADay(t *testing.T) {
	w := newDNSWorld(t, nil)
	w.net.SetSplitDNS(map[string][]tailnettest.Nameserver{
		"a.example": {{Address: "10.9.0.2", UseWithExitNode: true}}, "z.example": {{Address: "10.9.0.2"}},
	})
	var d *dnsRegistrar
	whileRunning(t, func(t *testing.T) {
		time.Sleep(time.Minute)
		if s := d.describe(); s.State != "registered" || d.warning() != nil {
			t.Errorf("state %+v, warning %v", s, d.warning())
		}
		want := map[string][]tailnettest.Nameserver{
			"a.example": {{Address: "10.9.0.2", UseWithExitNode: true}, {Address: "10.0.0.2"}}, "b.example": {{Address: "10.0.0.2"}}, "z.example": {{Address: "10.9.0.2"}},
		}
		if got := w.net.SplitDNS(); text(got) != text(want) {
			t.Errorf("got  %s\nwant %s", text(got), text(want))
		}
		w.net.SetSplitDNS(map[string][]tailnettest.Nameserver{"a.example": {{Address: "10.8.0.2"}}})
		time.Sleep(dnsEvery * 3 / 2)
		if a, b := w.servers("a.example"), w.servers("b.example"); !slices.Equal(a, []string{"10.8.0.2", "10.0.0.2"}) || !slices.Equal(b, []string{"10.0.0.2"}) {
			t.Errorf("after a removal: %q, %q", a, b)
		}
		time.Sleep(24 * time.Hour)
		// Checks: 24 h / 4.5 min = 320. A token is valid for an hour.
		if n := len(w.net.APICalls()); n < 280 || n > 370 {
			t.Errorf("%d calls in a day", n)
		}
		if n := testutil.ToFloat64(d.results.WithLabelValues(dnsChanged)); n != 2 {
			t.Errorf("%v changes", n)
		}
	}, func() *dnsRegistrar {
		d = w.registrar(w.client.Secret, "10.0.0.2", "a.example", "b.example")
		return d
	})
	if strings.Contains(w.log.String(), w.client.Secret) {
		t.Error("the log has the client's secret")
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestDNSStates checks the state, the warning and the pause of each kind of failure, and that the
// registrar recovers.
func TestDNSStates(t *testing.T) {
	foreign := map[string][]tailnettest.Nameserver{"a.example": {{Address: "10.9.0.2", UseWithExitNode: true}}}
	for name, test := range map[string]struct {
		client func(*tailnettest.OAuthClient)
		key    string // instead of the client
		world  func(*dnsWorld)
		state  dnsState
		want   string // in the warning
		calls  int    // of split DNS in the first hour, at most
		fixed  func(*dnsWorld)
	}{
		"no scope":     {client: func(c *tailnettest.OAuthClient) { c.DNS = false }, state: dnsDenied, want: "the scope dns (write)", calls: 15, fixed: grantDNS},
		"read only":    {client: func(c *tailnettest.OAuthClient) { c.DNS, c.DNSRead = false, true }, state: dnsDenied, want: "the scope dns (write)", calls: 30, fixed: grantDNS},
		"auth key":     {key: routertest.Key, state: dnsNoClient, want: "auth key", calls: 0},
		"other server": {world: failSplitDNS(tailnettest.APIFailure{Status: 404, Body: "404 page not found"}), state: dnsUnsupported, want: "ROUTER_DNS_REGISTER=off", calls: 15, fixed: failSplitDNS(tailnettest.APIFailure{})},
		"down":         {world: failSplitDNS(tailnettest.APIFailure{Status: 503}), state: dnsFailing, want: "HTTP 503", calls: 22, fixed: failSplitDNS(tailnettest.APIFailure{})},
		"throttled":    {world: failSplitDNS(tailnettest.APIFailure{Status: 429, RetryAfter: "590"}), state: dnsFailing, want: "HTTP 429", calls: 8, fixed: failSplitDNS(tailnettest.APIFailure{})},
		"slow":         {world: failSplitDNS(tailnettest.APIFailure{Delay: time.Hour}), state: dnsFailing, want: "no answer in time", calls: 22, fixed: failSplitDNS(tailnettest.APIFailure{})},
		"nonsense":     {world: failSplitDNS(tailnettest.APIFailure{Status: 200, Body: `["x"]`}), state: dnsFailing, want: "not what Tailscale's API sends", calls: 22, fixed: failSplitDNS(tailnettest.APIFailure{})},
		"hidden options": {
			world: func(w *dnsWorld) { w.net.SetSplitDNS(foreign); w.net.HideDNSOptions() },
			state: dnsPartial, want: "add the nameserver 10.0.0.2", calls: 30,
			fixed: func(w *dnsWorld) { w.net.SetSplitDNS(nil) },
		},
		"unknown options": {
			world: func(w *dnsWorld) {
				w.net.SetSplitDNS(foreign)
				w.net.FailAPI(tailnettest.APIDNS, tailnettest.APIFailure{Status: 404})
			},
			state: dnsPartial, want: "or may have", calls: 30,
			fixed: func(w *dnsWorld) { w.net.FailAPI(tailnettest.APIDNS, tailnettest.APIFailure{}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDNSWorld(t, test.client)
			if test.world != nil {
				test.world(w)
			}
			before := text(w.net.SplitDNS()["a.example"])
			var d *dnsRegistrar
			whileRunning(t, func(t *testing.T) {
				time.Sleep(time.Hour)
				p := d.warning()
				if s := d.describe(); s.State != string(test.state) || p == nil || p.Code != problem.DNSRegistrationFailed || !strings.Contains(p.Error(), test.want) || p.Fix == "" {
					t.Errorf("state %+v, warning %v", s, p)
				}
				if after := text(w.net.SplitDNS()["a.example"]); after != before {
					t.Errorf("a list that stays: %s, then %s", before, after)
				}
				calls := 0
				for _, path := range w.net.APICalls() {
					if path == tailnettest.APISplitDNS {
						calls++
					}
				}
				if calls > test.calls {
					t.Errorf("%d calls in an hour, want %d at most", calls, test.calls)
				}
				if test.fixed == nil {
					return
				}
				test.fixed(w)
				time.Sleep(10*time.Minute + dnsEvery)
				if s := d.describe(); s.State != string(dnsRegistered) || d.warning() != nil || !slices.Contains(w.servers("a.example"), "10.0.0.2") {
					t.Errorf("after the fix: %+v", s)
				}
			}, func() *dnsRegistrar {
				key := test.key
				if key == "" {
					key = w.client.Secret
				}
				d = w.registrar(key, "10.0.0.2", "a.example", "b.example")
				return d
			})
			if n := strings.Count(w.log.String(), "incomplete"); n != 1 {
				t.Errorf("%d lines about one failure:\n%s", n, &w.log)
			}
			if strings.Contains(w.log.String(), w.client.Secret) || strings.Contains(w.log.String(), routertest.Key) {
				t.Error("the log has a credential")
			}
		})
	}
}

func grantDNS(w *dnsWorld) {
	w.client.DNS = true
	w.net.SetAPI(context.Background(), tailnettest.API{Clients: []tailnettest.OAuthClient{w.client}})
}

func failSplitDNS(f tailnettest.APIFailure) func(*dnsWorld) {
	return func(w *dnsWorld) { w.net.FailAPI(tailnettest.APISplitDNS, f) }
}

// TestDNSOfTwoServices has routers of two services serve one zone, through a slow API, so that
// they write from readings of the same list.
func TestDNSOfTwoServices(t *testing.T) {
	w := newDNSWorld(t, nil)
	w.net.FailAPI(tailnettest.APISplitDNS, tailnettest.APIFailure{Delay: time.Second})
	var one, two *dnsRegistrar
	whileRunning(t, func(t *testing.T) {
		time.Sleep(2 * dnsEvery)
		got := w.servers("a.example")
		slices.Sort(got)
		if !slices.Equal(got, []string{"10.0.0.2", "10.1.0.2"}) || one.describe().State != "registered" || two.describe().State != "registered" {
			t.Errorf("nameservers %q, states %+v, %+v", got, one.describe(), two.describe())
		}
		if n, err := one.remove(t.Context(), netip.MustParseAddr("10.0.0.2")); n != 2 || err != nil {
			t.Errorf("a removal: %d, %v", n, err)
		}
		time.Sleep(2 * dnsEvery)
		if a, b := w.servers("a.example"), w.servers("b.example"); !slices.Equal(a, []string{"10.1.0.2"}) || b != nil {
			t.Errorf("after the end of one: %q, %q", a, b)
		}
	}, func() *dnsRegistrar {
		one = w.registrar(w.client.Secret, "10.0.0.2", "a.example", "b.example")
		return one
	}, func() *dnsRegistrar {
		two = w.registrar(w.client.Secret, "10.1.0.2", "a.example")
		return two
	})
}

// TestDNSRemoval: the nameserver leaves every domain, also one that a person or an earlier task
// registered; a list whose options a change would reset stays.
func TestDNSRemoval(t *testing.T) {
	w := newDNSWorld(t, nil)
	var d *dnsRegistrar
	own, other := tailnettest.Nameserver{Address: "10.0.0.2"}, tailnettest.Nameserver{Address: "10.9.0.2"}
	w.net.SetSplitDNS(map[string][]tailnettest.Nameserver{"gone.example": {other, own}, "hand.example": {{Address: "10.0.0.2", UseWithExitNode: true}}, "z.example": {other}})
	whileRunning(t, func(t *testing.T) {
		time.Sleep(time.Minute)
		n, err := d.remove(t.Context(), netip.MustParseAddr("10.0.0.2"))
		if got, want := text(w.net.SplitDNS()), text(map[string][]tailnettest.Nameserver{"gone.example": {other}, "z.example": {other}}); n != 3 || err != nil || got != want {
			t.Errorf("from %d domains, %v; split DNS\n%s, want\n%s", n, err, got, want)
		}
		w.net.SetSplitDNS(map[string][]tailnettest.Nameserver{"gone.example": {{Address: "10.9.0.2", UseWithExitNode: true}, own}})
		w.net.HideDNSOptions()
		if _, err := d.remove(t.Context(), netip.MustParseAddr("10.0.0.2")); err == nil || !strings.Contains(err.Error(), "the nameservers of gone.example have options") {
			t.Errorf("a list with options: %v", err)
		}
	}, func() *dnsRegistrar {
		d = w.registrar(w.client.Secret, "10.0.0.2", "a.example")
		return d
	})
}

// revert is a table that another program restores after each write.
type revert struct{ writes int }

func (*revert) SplitDNS(context.Context) (splitdns.Table, error)            { return nil, nil }
func (*revert) SplitDNSWithOptions(context.Context) (splitdns.Table, error) { return nil, nil }
func (r *revert) PatchSplitDNS(context.Context, splitdns.Table) error       { r.writes++; return nil }

// TestDNSIsReverted: the registrar does not fight with another program.
func TestDNSIsReverted(t *testing.T) {
	table := &revert{}
	own := splitdns.Own{Nameserver: netip.MustParseAddr("10.0.0.2"), Domains: []string{"a.example"}}
	d := newDNSRegistrar(true, table, func() (splitdns.Own, string) { return own, "" }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	whileRunning(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		if p := d.warning(); p == nil || !strings.Contains(p.Error(), "another program reverts the nameservers of a.example") {
			t.Errorf("warning %v", p)
		}
		if table.writes > 4*22 {
			t.Errorf("%d writes in an hour", table.writes)
		}
	}, func() *dnsRegistrar { return d })
}

// TestDNSWaits: nothing is called while there is nothing to register.
func TestDNSWaits(t *testing.T) {
	w := newDNSWorld(t, nil)
	var d *dnsRegistrar
	whileRunning(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		if s := d.describe(); s.State != "waiting" || s.Message != "no zone is known" || d.warning() != nil || len(w.net.APICalls()) > 0 {
			t.Errorf("state %+v, warning %v, calls %q", s, d.warning(), w.net.APICalls())
		}
		if n, err := d.remove(t.Context(), netip.MustParseAddr("10.0.0.2")); n != 0 || err != nil {
			t.Errorf("a removal of nothing: %d, %v", n, err)
		}
	}, func() *dnsRegistrar {
		d = w.registrar(w.client.Secret, "10.0.0.2", "a.example")
		d.own = func() (splitdns.Own, string) { return splitdns.Own{}, "no zone is known" }
		return d
	})
	off := newDNSRegistrar(false, nil, nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if s := off.describe(); s.State != "off" || off.warning() != nil {
		t.Errorf("off: %+v, %v", s, off.warning())
	}
}
