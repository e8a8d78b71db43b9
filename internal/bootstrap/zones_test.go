package bootstrap_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/zones"
)

// addZones gives the VPC hosted zones and resolver rules.
func addZones(w *awstest.World) {
	w.PageSize = 1
	w.VPCs[0].Hostnames = true
	w.HostedZones = []awstest.HostedZone{
		{ID: "Z1", Name: "Internal.Example.com.", VPCs: []string{"vpc-0aaa", "vpc-0bbb"}},
		{ID: "Z2", Name: "fs-1.efs.eu-west-1.amazonaws.com.", Service: "efs.amazonaws.com", VPCs: []string{"vpc-0aaa"}},
		{ID: "Z3", Name: "other.example.com.", VPCs: []string{"vpc-0bbb"}},
		{ID: "Z4", Name: `\052.example.com.`, VPCs: []string{"vpc-0aaa"}},
		{ID: "Z5", Name: "20.10.in-addr.arpa.", VPCs: []string{"vpc-0aaa"}},
	}
	w.ResolverRules = []awstest.ResolverRule{
		{ID: "rslvr-rr-1", Domain: "corp.example.com.", VPCs: []string{"vpc-0aaa"}},
		{ID: "rslvr-rr-2", Domain: "elsewhere.example.com.", VPCs: []string{"vpc-0bbb"}},
		{ID: "rslvr-rr-3", Domain: "aws.corp.example.com.", Type: "SYSTEM", VPCs: []string{"vpc-0aaa"}},
		{ID: "rslvr-rr-4", Domain: ".", VPCs: []string{"vpc-0aaa"}},
		{ID: "rslvr-rr-5", Domain: "internal.example.com.", VPCs: []string{"vpc-0aaa"}},
		{ID: "rslvr-rr-6", Domain: "by-profile.example.com."},
		{ID: "rslvr-rr-7", Domain: "foreign-rule.example.com.", Foreign: true},
	}
	w.HostedZones = append(w.HostedZones,
		awstest.HostedZone{ID: "Z6", Name: "shared.example.com."},
		awstest.HostedZone{ID: "Z7", Name: "foreign-zone.example.com.", Foreign: true})
	w.Profiles = []awstest.Profile{
		{ID: "rp-1", VPCs: []string{"vpc-0aaa"}, Resources: []string{
			"arn:aws:route53:::hostedzone/Z6", "arn:aws:route53:::hostedzone/Z7", "arn:aws:route53:::hostedzone/Z404",
			"arn:aws:route53resolver:eu-west-1:123456789012:resolver-rule/rslvr-rr-6", "arn:aws:route53resolver:eu-west-1:210987654321:resolver-rule/rslvr-rr-7",
			"arn:aws:route53resolver:eu-west-1:123456789012:firewall-rule-group/rslvr-frg-1", "arn:aws:ec2:eu-west-1:123456789012:vpc-endpoint/vpce-1", "not an ARN",
		}},
		{ID: "rp-2", VPCs: []string{"vpc-0bbb"}, Resources: []string{"arn:aws:route53:::hostedzone/Z3"}},
		{ID: "rp-3", VPCs: []string{"vpc-0aaa"}, Resources: []string{"arn:aws:route53:::hostedzone/Z3"}, Deleting: true},
	}
}

// zoneSummary returns the zones and notes, one per line.
func zoneSummary(z zones.Zones) string {
	var b strings.Builder
	for _, zone := range z.List {
		fmt.Fprintf(&b, "%s: %s\n", zone.Name, zone.Source)
	}
	for _, note := range z.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	return b.String()
}

func zoned(t *testing.T, a *aws, list string) bootstrap.Config {
	t.Helper()
	c := a.config("vpc")
	var err error
	if c.Zones, err = zones.Parse(list); err != nil {
		t.Fatal(err)
	}
	return c
}

const ownZones = `20.10.in-addr.arpa: private hosted zone Z5
by-profile.example.com: resolver rule rslvr-rr-6 of a Route 53 Profile
corp.example.com: resolver rule rslvr-rr-1
eu-west-1.compute.internal: names of instances (enableDnsHostnames)
fs-1.efs.eu-west-1.amazonaws.com: private hosted zone Z2 of efs.amazonaws.com
internal.example.com: private hosted zone Z1, resolver rule rslvr-rr-5
shared.example.com: private hosted zone Z6 of Route 53 Profile rp-1
`

const zoneNotes = `note: private hosted zone Z4 has the name "\\052.example.com", which split DNS cannot have
note: resolver rule rslvr-rr-4 is for all domains: make the VPC's resolver a global nameserver of the tailnet if clients need it
` + profileNotes

const profileNotes = `note: Route 53 Profile rp-1 has the interface endpoint vpce-1, whose names AWS does not list: add them to ROUTER_DNS_ZONES if clients need them
note: the task role cannot read private hosted zone Z7 of Route 53 Profile rp-1: add its domain to ROUTER_DNS_ZONES, or allow route53:GetHostedZone in the task role's policy if the zone is this account's
note: the task role cannot read private hosted zone Z404 of Route 53 Profile rp-1: add its domain to ROUTER_DNS_ZONES, or allow route53:GetHostedZone in the task role's policy if the zone is this account's
note: the task role cannot read resolver rule rslvr-rr-7 of Route 53 Profile rp-1: add its domain to ROUTER_DNS_ZONES
`

func TestZones(t *testing.T) {
	for name, test := range map[string]struct {
		task   awstest.Task
		list   string
		change func(*awstest.World)
		want   string
	}{
		"auto":    {fargate(), "auto", nil, ownZones + zoneNotes},
		"on EC2":  {ec2(), "auto", nil, ownZones + zoneNotes},
		"by hand": {fargate(), "b.example,A.example.", nil, "a.example: ROUTER_DNS_ZONES\nb.example: ROUTER_DNS_ZONES\n"},
		"none": {fargate(), "auto", func(w *awstest.World) {
			w.HostedZones, w.ResolverRules, w.Profiles, w.VPCs = nil, nil, nil, plainVPC(false)
		}, ""},
		"both": {fargate(), "corp.example.com,auto", func(w *awstest.World) { w.HostedZones, w.Profiles, w.VPCs = nil, nil, plainVPC(false) }, "corp.example.com: ROUTER_DNS_ZONES, resolver rule rslvr-rr-1\ninternal.example.com: resolver rule rslvr-rr-5\n" + zoneNotes[strings.Index(zoneNotes, "\n")+1:len(zoneNotes)-len(profileNotes)]},
		"no resolver": {fargate(), "auto", func(w *awstest.World) {
			w.HostedZones, w.ResolverRules, w.Profiles, w.VPCs = nil, nil, nil, plainVPC(true)
		}, "note: VPC vpc-0aaa has no DNS resolver: set enableDnsSupport, without which no zone is resolved\n"},
		"DHCP options": {fargate(), "auto", func(w *awstest.World) {
			w.HostedZones, w.ResolverRules, w.Profiles, w.VPCs = nil, nil, nil, plainVPC(false)
			w.VPCs[0].DHCPServers = []string{"10.20.0.53", "AmazonProvidedDNS"}
		}, "note: the DHCP options dopt-0aaa of VPC vpc-0aaa name other DNS servers (10.20.0.53), whose zones AWS does not list: add them to ROUTER_DNS_ZONES if the VPC's resolver forwards them\n"},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, test.task)
			a.Server.Update(addZones)
			if test.change != nil {
				a.Server.Update(test.change)
			}
			got, err := bootstrap.New(zoned(t, a, test.list)).Zones(t.Context())
			if err != nil || zoneSummary(got) != test.want {
				t.Errorf("%v\ngot\n%swant\n%s", err, zoneSummary(got), test.want)
			}
			if strings.HasPrefix(test.list, "b.") && len(a.Calls()) > 0 {
				t.Errorf("AWS was asked: %v", a.Calls())
			}
		})
	}
}

func plainVPC(noDNS bool) []awstest.VPC {
	v := world().VPCs
	v[0].NoDNS, v[0].Hostnames = noDNS, noDNS
	return v
}

// TestZonesInUSEast1: that region's names of instances have a domain of their own.
func TestZonesInUSEast1(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(func(w *awstest.World) { w.Region, w.VPCs[0].Hostnames = "us-east-1", true })
	t.Setenv("AWS_REGION", "us-east-1")
	got, err := bootstrap.New(zoned(t, a, "auto")).Zones(t.Context())
	if want := "ec2.internal: names of instances (enableDnsHostnames)\n"; err != nil || zoneSummary(got) != want {
		t.Errorf("%v\ngot\n%swant\n%s", err, zoneSummary(got), want)
	}
}

// TestZonesKeepTheLastGood: a source that fails keeps its zones, and does not hide those of
// others.
func TestZonesKeepTheLastGood(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(addZones)
	a.Server.Fail("route53:ListHostedZonesByVPC", awstest.Failure{Status: 403, Code: "AccessDenied", Message: "not authorized"})
	b := bootstrap.New(zoned(t, a, "auto"))
	got, err := b.Zones(t.Context())
	const denied = `note: looking up the private hosted zones of the VPC: calling route53:ListHostedZonesByVPC for the private hosted zones of VPC vpc-0aaa: AccessDenied: not authorized; allow route53:ListHostedZonesByVPC and ec2:DescribeVpcs on "*" in the task role's policy, or list the domains in ROUTER_DNS_ZONES instead of auto` + "\n"
	if want := "by-profile.example.com: resolver rule rslvr-rr-6 of a Route 53 Profile\ncorp.example.com: resolver rule rslvr-rr-1\neu-west-1.compute.internal: names of instances (enableDnsHostnames)\ninternal.example.com: resolver rule rslvr-rr-5\nshared.example.com: private hosted zone Z6 of Route 53 Profile rp-1\n"; err == nil || !strings.HasPrefix(zoneSummary(got), want) || !strings.HasSuffix(zoneSummary(got), denied) {
		t.Errorf("denied: %v\n%s", err, zoneSummary(got))
	}
	a.Server.Fail("route53:ListHostedZonesByVPC", awstest.Failure{})
	if got, err = b.Zones(t.Context()); err != nil || zoneSummary(got) != ownZones+zoneNotes {
		t.Errorf("%v\n%s", err, zoneSummary(got))
	}
	for _, action := range []string{"route53:ListHostedZonesByVPC", "route53resolver:ListResolverRules", "route53profiles:ListProfileAssociations", "ec2:DescribeVpcAttribute", "ec2:DescribeDhcpOptions"} {
		a.Server.Fail(action, awstest.Down())
	}
	got, err = b.Zones(t.Context())
	if err == nil || !strings.HasPrefix(zoneSummary(got), ownZones+zoneNotes) || len(got.Notes) != 6+5 {
		t.Errorf("down: %v\n%s", err, zoneSummary(got))
	}
	a.Server.Fail("ec2:DescribeVpcs", awstest.Down())
	if got, err = b.Zones(t.Context()); err == nil || !strings.HasPrefix(zoneSummary(got), ownZones+zoneNotes) || len(got.Notes) != 6+1 {
		t.Errorf("without the VPC: %v\n%s", err, zoneSummary(got))
	}
}

// TestZonesWithoutProfiles: a role without the actions of Route 53 Profiles finds all other zones,
// and so does one whose profile changes between the calls.
func TestZonesWithoutProfiles(t *testing.T) {
	for _, action := range []string{"route53profiles:ListProfileAssociations", "route53profiles:ListProfileResourceAssociations"} {
		a := start(t, fargate())
		a.Server.Update(addZones)
		a.Server.Fail(action, awstest.Denied(action, "*"))
		got, err := bootstrap.New(zoned(t, a, "auto")).Zones(t.Context())
		summary := zoneSummary(got)
		fix := "allow " + action + ` on "*" in the task role's policy, or list the domains in ROUTER_DNS_ZONES instead of auto`
		if err == nil || len(got.List) != 5 || !strings.Contains(summary, "looking up the Route 53 Profiles of the VPC: ") || !strings.Contains(summary, fix) {
			t.Errorf("%s: %v\n%s", action, err, summary)
		}
	}
}

// TestZonesAreBounded: a hostile or huge answer cannot fill the status.
func TestZonesAreBounded(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(func(w *awstest.World) {
		for i := range 700 {
			w.HostedZones = append(w.HostedZones, awstest.HostedZone{ID: fmt.Sprint("Z", i), Name: fmt.Sprintf("z%d.example.com.", i), VPCs: []string{"vpc-0aaa"}})
			w.HostedZones = append(w.HostedZones, awstest.HostedZone{ID: fmt.Sprint("Y", i), Name: strings.Repeat("x", 1000) + ".", VPCs: []string{"vpc-0aaa"}})
		}
	})
	got, err := bootstrap.New(zoned(t, a, "auto")).Zones(t.Context())
	if err != nil || len(got.List) != 500 || len(got.Notes) != 21 {
		t.Errorf("%d zones, %d notes, %v", len(got.List), len(got.Notes), err)
	}
}

// TestZoneActionsAreTheCalls compares the needs with the calls on the wire.
func TestZoneActionsAreTheCalls(t *testing.T) {
	for place, task := range map[string]awstest.Task{"fargate": fargate(), "ec2": ec2()} {
		a := start(t, task)
		a.Server.Update(addZones)
		c := zoned(t, a, "auto")
		c.Credential, c.Routes.Sources = literal("tskey-auth-x"), parse("subnet")
		b := bootstrap.New(c)
		if _, err := b.Zones(t.Context()); err != nil {
			t.Fatal(err)
		}
		calls := a.Calls()
		slices.Sort(calls)
		calls = slices.Compact(calls)
		want := bootstrap.Actions(c, place == "ec2")
		slices.Sort(want)
		if !slices.Equal(calls, want) {
			t.Errorf("%s:\ncalled  %v\nallowed %v", place, calls, want)
		}
		c.Zones = zones.Settings{Names: []string{"a.example"}}
		if actions := bootstrap.Actions(c, false); len(actions) > 0 {
			t.Errorf("names by hand need %v", actions)
		}
	}
}
