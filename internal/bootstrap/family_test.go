package bootstrap_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/routesource"
)

const (
	noIPv6 = "the task has no IPv6 address, so it cannot reach these; run it in a subnet with an IPv6 CIDR, with the account setting dualStackIPv6 on"
	noIPv4 = "the task has no IPv4 address, so it cannot reach these; run it in a subnet with an IPv4 CIDR"
)

// recorded serves the recorded metadata of a real task.
func recorded(t *testing.T, name string) (uri string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../ecsmeta/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var answers struct{ Container, Task json.RawMessage }
	if err := json.Unmarshal(data, &answers); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v4", func(w http.ResponseWriter, _ *http.Request) { w.Write(answers.Container) })
	mux.HandleFunc("/v4/task", func(w http.ResponseWriter, _ *http.Request) { w.Write(answers.Task) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL + "/v4"
}

// explained lists the advertised prefixes, the refused ones with the reason, and notes.
func explained(r routesource.Routes) string {
	var lines []string
	for _, p := range r.Advertise {
		lines = append(lines, p.String())
	}
	for _, x := range r.Refused {
		lines = append(lines, fmt.Sprintf("not %s: %s", x.Prefix, x.Reason))
	}
	return strings.Join(append(lines, r.Notes...), "\n")
}

// TestFamilies: prefixes of an IP version of which the task has no address are refused,
// from every source.
func TestFamilies(t *testing.T) {
	const (
		via  = "fd7a:115c:a1e0:b1a:0:7:a14:0/112" // 10.20.0.0/16 at site 7
		both = "10.20.0.0/16,2a05:d018:7e1:a100::/56," + via
	)
	only6 := fargate()
	only6.IPv4, only6.IPv4Subnet = nil, netip.Prefix{}
	only4 := fargate()
	only4.IPv6, only4.IPv6Subnet = nil, netip.Prefix{}
	bridge := awstest.Task{LaunchType: "EC2", NetworkMode: "bridge", VPCID: "vpc-0aaa", IPv4: []netip.Addr{netip.MustParseAddr("172.17.0.2")}}
	const cgnat = "not 100.64.0.0/20: Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all"
	site := uint32(7)
	for name, tc := range map[string]struct {
		uri     string // "" is task's
		task    awstest.Task
		sources string
		site    *uint32
		local   []string // of the machine
		want    []string
	}{
		"Fargate":             {uri: recorded(t, "fargate.json"), sources: "vpc", want: []string{"10.20.0.0/16", "10.31.0.0/16", cgnat, "not 2a05:d018:7e1:a100::/56: " + noIPv6}},
		"Fargate, dual stack": {uri: recorded(t, "fargate-dual-stack.json"), sources: "vpc", want: []string{"10.20.0.0/16", "10.31.0.0/16", "2a05:d018:7e1:a100::/56", cgnat}},
		"EC2":                 {uri: recorded(t, "ec2-awsvpc.json"), sources: both, want: []string{"10.20.0.0/16", via, "not 2a05:d018:7e1:a100::/56: " + noIPv6}},
		"by hand, without":    {uri: recorded(t, "fargate.json"), sources: both, want: []string{"10.20.0.0/16", via, "not 2a05:d018:7e1:a100::/56: " + noIPv6}},
		"by hand, with":       {uri: recorded(t, "fargate-dual-stack.json"), sources: both, want: []string{"10.20.0.0/16", "2a05:d018:7e1:a100::/56", via}},
		"site":                {uri: recorded(t, "fargate.json"), sources: "10.20.0.0/16,2a05:d018:7e1:a100::/56", site: &site, want: []string{via, "not 2a05:d018:7e1:a100::/56: " + noIPv6}},
		"subnet":              {task: only4, sources: "subnet", want: []string{"10.20.1.0/24"}},
		"IPv6 only":           {task: only6, sources: both, want: []string{"2a05:d018:7e1:a100::/56", "not 10.20.0.0/16: " + noIPv4, "not " + via + ": " + noIPv4}},
		"IPv6 only, site":     {task: only6, sources: "10.20.0.0/16,2a05:d018:7e1:a100::/56", site: &site, want: []string{"2a05:d018:7e1:a100::/56", "not 10.20.0.0/16: " + noIPv4}},

		// If metadata does not list all addresses, those of the machine are used.
		"bridge mode, without": {task: bridge, sources: both, local: []string{"172.17.0.2", "fe80::1", "::1", "fd7a:115c:a1e0::1"}, want: []string{"10.20.0.0/16", "2a05:d018:7e1:a100::/56", via,
			"2a05:d018:7e1:a100::/56 is IPv6, and this machine has no IPv6 address: the router cannot reach it"}},
		"bridge mode, with": {task: bridge, sources: both, local: []string{"172.17.0.2", "2a05:d018::2"}, want: []string{"10.20.0.0/16", "2a05:d018:7e1:a100::/56", via}},
	} {
		a := start(t, tc.task)
		c := a.config(tc.sources)
		if tc.uri != "" {
			c.MetadataURI = tc.uri
		}
		c.Routes.Site = tc.site
		c.LocalAddrs = func() (addrs []netip.Addr, err error) {
			if tc.local == nil {
				t.Errorf("%s: the machine is asked for its addresses", name)
			}
			for _, s := range tc.local {
				addrs = append(addrs, netip.MustParseAddr(s))
			}
			return addrs, nil
		}
		got, err := bootstrap.New(c).Routes(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := strings.Join(tc.want, "\n"); explained(got) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, explained(got), want)
		}
		for _, r := range got.Explain {
			for _, x := range got.Refused {
				if r.Prefix == x.Prefix {
					t.Errorf("%s: %s is both kept and refused", name, r.Prefix)
				}
			}
		}
	}
}

// TestFamiliesOutsideECS: on a laptop, the operator's prefixes are advertised, with a note.
func TestFamiliesOutsideECS(t *testing.T) {
	for name, tc := range map[string]struct {
		local string
		err   error
		notes int
	}{
		"without":   {"192.168.1.2", nil, 1},
		"with":      {"2001:db8::2", nil, 0},
		"with ULA":  {"fd80::2", nil, 0},
		"not known": {"", errors.New("too many open files"), 0},
	} {
		c := bootstrap.Config{Routes: routed("10.0.0.0/8,2001:db8:1::/48"), Credential: literal("tskey-auth-x")}
		c.LocalAddrs = func() ([]netip.Addr, error) {
			if tc.err != nil {
				return nil, tc.err
			}
			return []netip.Addr{netip.MustParseAddr(tc.local)}, nil
		}
		got, err := bootstrap.New(c).Routes(t.Context())
		if err != nil || len(got.Advertise) != 2 || len(got.Notes) != tc.notes {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// IPv4 alone needs no look-up.
	c := bootstrap.Config{Routes: routed("10.0.0.0/8"), Credential: literal("tskey-auth-x"), LocalAddrs: func() ([]netip.Addr, error) {
		t.Error("the machine is asked for its addresses")
		return nil, nil
	}}
	if _, err := bootstrap.New(c).Routes(t.Context()); err != nil {
		t.Error(err)
	}
	// Metadata that cannot be read withdraws nothing.
	c.Routes.Sources, c.MetadataURI, c.LocalAddrs = parse("2001:db8:1::/48"), "http://127.0.0.1:1/v4", nil
	if got, err := bootstrap.New(c).Routes(t.Context()); err != nil || len(got.Advertise) != 1 {
		t.Errorf("without metadata: %v, %v", got, err)
	}
}
