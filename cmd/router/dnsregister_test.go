package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/router"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestDNSRegistration plans and runs a router that registers split DNS, with and without the
// scope for it.
func TestDNSRegistration(t *testing.T) {
	others := map[string][]tailnettest.Nameserver{"corp.example.com": {{Address: "10.9.0.2", UseWithExitNode: true}}, "z.example": {{Address: "10.9.0.2"}}}
	for name, test := range map[string]struct {
		prepare func(*tailnettest.OAuthClient)
		site    string
		plan    string // the change
		state   string
		want    string // the added nameserver; "": none
	}{
		"with the scope": {
			prepare: func(c *tailnettest.OAuthClient) { c.DNS = true }, state: "registered", want: "10.0.0.2",
			plan: `{"b.example":["10.0.0.2"],"corp.example.com":[{"address":"10.9.0.2","useWithExitNode":true},"10.0.0.2"]}`,
		},
		"with a site": {
			prepare: func(c *tailnettest.OAuthClient) { c.DNS = true }, site: "7", state: "registered", want: "fd7a:115c:a1e0:b1a:0:7:a00:2",
			plan: `{"b.example":["fd7a:115c:a1e0:b1a:0:7:a00:2"],"corp.example.com":[{"address":"10.9.0.2","useWithExitNode":true},"fd7a:115c:a1e0:b1a:0:7:a00:2"]}`,
		},
		"without the scope": {prepare: func(*tailnettest.OAuthClient) {}, state: "denied", plan: `{"b.example":["10.0.0.2"],"corp.example.com":["10.0.0.2"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t)
			client := tailnettest.NewOAuthClient(routertest.Tag)
			test.prepare(&client)
			if err := s.Control.SetAPI(t.Context(), tailnettest.API{Clients: []tailnettest.OAuthClient{client}}); err != nil {
				t.Fatal(err)
			}
			err := s.Control.SetPolicy(t.Context(), tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{routertest.Tag: {
				netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2600::/16"), netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64"),
			}}})
			if err != nil {
				t.Fatal(err)
			}
			s.Control.SetSplitDNS(others)
			s.store(awstest.Secret{Value: client.Secret})
			maps.Copy(s.Env, map[string]string{
				"ROUTER_API_URL": s.Control.ControlURL(), "ROUTER_TAGS": routertest.Tag, "ROUTER_SITE_ID": test.site,
				"ROUTER_DNS_ZONES": "corp.example.com,b.example", "ROUTER_DNS_REGISTER": "on",
			})
			awstest.Setenv(t, s.AWS.Env())
			plan, err := router.MakePlan(t.Context(), s.Load(t))
			if err != nil || plan.Register == nil {
				t.Fatalf("plan %+v: %v", plan.Register, err)
			}
			if change, _ := json.Marshal(plan.Register.Change); string(change) != test.plan || (plan.Register.Note == "") != (test.want != "") {
				t.Errorf("plan %s, note %q\nwant %s", change, plan.Register.Note, test.plan)
			}
			if got := s.Control.SplitDNS(); fmt.Sprint(got) != fmt.Sprint(others) {
				t.Errorf("the plan changed the split DNS: %v", got)
			}

			c := s.start(t)
			c.awaitReady()
			testwait.Until(t, "the registration", func() error {
				var status ops.Status
				_, body := c.get("/status")
				if err := json.Unmarshal(body, &status); err != nil {
					return err
				}
				if status.DNSRegistration.State != test.state {
					return fmt.Errorf("registration %+v", status.DNSRegistration)
				}
				return nil
			})
			want := others
			if test.want != "" {
				own := tailnettest.Nameserver{Address: test.want}
				want = map[string][]tailnettest.Nameserver{"corp.example.com": append(others["corp.example.com"], own), "b.example": {own}, "z.example": others["z.example"]}
			}
			if got := s.Control.SplitDNS(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("split DNS %v, want %v", got, want)
			}
			c.await("the warning", func(r ops.Readiness) bool {
				warned := false
				for _, w := range r.Warnings {
					warned = warned || w.Code == "dns_registration_failed" && w.Fix != ""
				}
				return r.Ready && warned == (test.want == "")
			})
			c.expectNoSecrets()
		})
	}
}
