package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
			c.awaitRegistration(test.state)
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

// awaitRegistration waits for a state of the registration.
func (c *child) awaitRegistration(state string) {
	c.t.Helper()
	testwait.Until(c.t, "the registration", func() error {
		var status ops.Status
		_, body := c.get("/status")
		if err := json.Unmarshal(body, &status); err != nil {
			return err
		}
		if status.DNSRegistration.State != state {
			return fmt.Errorf("registration %+v", status.DNSRegistration)
		}
		return nil
	})
}

// TestDNSDeparture expects the router's entries in the split DNS to stay at the end of its task,
// unless that was the last task of a service that was scaled in to none.
func TestDNSDeparture(t *testing.T) {
	own, other := tailnettest.Nameserver{Address: "10.0.0.2"}, tailnettest.Nameserver{Address: "10.9.0.2"}
	for name, test := range map[string]struct {
		state   string // ROUTER_STATE
		desired int
		running int // tasks of the service, without this one
		change  func(*testing.T, *setting)
		stays   bool
		log     string
	}{
		"to none":              {desired: 0, log: "split DNS removed"},
		"to none, with a slot": {state: "dynamodb:routers", desired: 0, log: "split DNS removed"},
		"from two to one":      {desired: 1, running: 1, stays: true, log: `"scale_in":true,"last":false`},
		"a replacement":        {desired: 1, stays: true, log: `"scale_in":false`},
		"a rolling deployment": {desired: 0, change: deploys, stays: true, log: "2 deployments are in progress"},
		"without ECS's action": {desired: 0, change: func(_ *testing.T, s *setting) {
			s.AWS.Fail("ecs:DescribeServices", awstest.Denied("ecs:DescribeServices", "edge"))
		}, stays: true, log: "allow ecs:DescribeServices"},
		"another service":        {desired: 0, change: takesOver(""), stays: true, log: `split DNS stays","router":"peer"`},
		"a narrower route":       {desired: 0, change: takesOver("10.0.0.0/24"), stays: true, log: `split DNS stays","router":"peer"`},
		"another route":          {desired: 0, change: takesOver("10.0.1.0/24"), log: "split DNS removed"},
		"an unknown withdrawal":  {desired: 0, change: keepsPrimary, stays: true, log: "whether another router serves the VPC's resolver is unknown"},
		"Tailscale's API is out": {desired: 0, change: failsDNS(tailnettest.APIFailure{Status: 503}), stays: true, log: "remove the nameserver 10.0.0.2"},
		"Tailscale's API hangs":  {desired: 0, change: failsDNS(tailnettest.APIFailure{Delay: time.Hour}), stays: true, log: "remove the nameserver 10.0.0.2"},
		"the scope was removed":  {desired: 0, change: failsDNS(tailnettest.APIFailure{Status: 403}), stays: true, log: "remove the nameserver 10.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newMember(t)
			client := tailnettest.NewOAuthClient(routertest.Tag)
			client.DNS, client.Devices = true, true
			if err := s.Control.SetAPI(t.Context(), tailnettest.API{Clients: []tailnettest.OAuthClient{client}}); err != nil {
				t.Fatal(err)
			}
			s.store(awstest.Secret{Value: client.Secret})
			// An earlier task may have registered gone.example.
			s.Control.SetSplitDNS(map[string][]tailnettest.Nameserver{"corp.example.com": {other}, "gone.example": {own, other}, "z.example": {other}})
			maps.Copy(s.Env, map[string]string{
				"ROUTER_API_URL": s.Control.ControlURL(), "ROUTER_TAGS": routertest.Tag, "ROUTER_STATE": test.state,
				"ROUTER_DNS_ZONES": "corp.example.com,b.example", "ROUTER_DNS_REGISTER": "on",
			})
			c := s.start(t)
			c.awaitReady()
			c.awaitRegistration("registered")
			s.stops(test.desired, schedulerStops)
			s.AWS.Update(func(w *awstest.World) {
				service := w.Clusters["network"].Services["edge"]
				service.Running = test.running
				w.Clusters["network"].Services["edge"] = service
			})
			if test.change != nil {
				test.change(t, s)
			}
			start := time.Now()
			if code := c.stop(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(start); took > 8*time.Second+testwait.Limit()/10 {
				t.Errorf("the drain took %v, longer than its timeout of 8s", took)
			}
			want := map[string][]tailnettest.Nameserver{"corp.example.com": {other}, "gone.example": {other}, "z.example": {other}}
			if test.stays {
				want["gone.example"] = []tailnettest.Nameserver{own, other}
				want["corp.example.com"], want["b.example"] = append(want["corp.example.com"], own), []tailnettest.Nameserver{own}
			}
			if got := s.Control.SplitDNS(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("split DNS %v, want %v", got, want)
			}
			if got := s.names(t); slices.ContainsFunc(got, func(n string) bool { return strings.HasPrefix(n, "edge") }) && test.state == "" {
				t.Errorf("the ephemeral node is still listed: %v", got)
			}
			c.awaitLog(test.log)
			c.expectNoSecrets()
		})
	}
}

// deploys sets ECS's view of a service during a rolling deployment.
func deploys(_ *testing.T, s *setting) {
	s.AWS.Update(func(w *awstest.World) {
		service := w.Clusters["network"].Services["edge"]
		service.Deployments = []awstest.Deployment{{ID: "ecs-svc/2", Status: "PRIMARY", RolloutState: "IN_PROGRESS"}, {ID: "ecs-svc/1", Status: "ACTIVE"}}
		w.Clusters["network"].Services["edge"] = service
	})
}

// takesOver starts a router of another service, of the same VPC or of the given routes.
func takesOver(routes string) func(*testing.T, *setting) {
	return func(t *testing.T, s *setting) {
		env := maps.Clone(s.Env)
		env["ROUTER_HOSTNAME"], env["ROUTER_LISTEN"], env["ROUTER_SOCKET"] = "peer", routertest.FreeAddress(t), filepath.Join(t.TempDir(), "s.sock")
		if routes != "" {
			env["ROUTER_ROUTES"], env["ROUTER_DNS_REGISTER"] = routes, "off"
		}
		other := &setting{&routertest.Setting{AWS: s.AWS, Metadata: s.Metadata, Control: s.Control, Env: env}, s.ctx}
		other.start(t).awaitReady()
	}
}

// keepsPrimary has control keep the node primary for a route that it withdraws.
func keepsPrimary(t *testing.T, s *setting) {
	if err := s.Control.ForceRoutes(t.Context(), "edge", netip.MustParsePrefix("10.0.0.0/16")); err != nil {
		t.Fatal(err)
	}
}

func failsDNS(f tailnettest.APIFailure) func(*testing.T, *setting) {
	return func(_ *testing.T, s *setting) { s.Control.FailAPI(tailnettest.APISplitDNS, f) }
}
