package routes

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func TestRefuse(t *testing.T) {
	const tailnet = "Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all"
	for p, want := range map[string]string{
		"10.0.0.0/16":              "",
		"172.16.0.0/12":            "",
		"fd12:3456::/48":           "",
		"2600:1f18::/56":           "",
		"0.0.0.0/1":                "", // Normalize may merge two of them into a default route, which is then refused
		"168.0.0.0/6":              "", // contains link-local; Denied stops those packets
		"96.0.0.0/3":               "", // contains 100.64.0.0/10
		"fd00::/8":                 "",
		"fc00::/7":                 "",
		"100.128.0.0/16":           "",
		"0.0.0.0/0":                defaultRoute,
		"::/0":                     defaultRoute,
		"0.0.0.0/8":                "not a destination (RFC 1122: this network)",
		"0.1.2.3/32":               "not a destination (RFC 1122: this network)",
		"::/128":                   "not a destination (the unspecified address)",
		"169.254.0.0/16":           "link-local, where ECS and EC2 serve credentials and metadata",
		"169.254.170.2/32":         "link-local, where ECS and EC2 serve credentials and metadata",
		"fd00:ec2::/32":            "where EC2 serves metadata, with credentials, over IPv6",
		"fd00:ec2::254/128":        "where EC2 serves metadata, with credentials, over IPv6",
		"fe80::/10":                "link-local",
		"fe80::/64":                "link-local",
		"127.0.0.0/8":              "loopback",
		"127.0.0.53/32":            "loopback",
		"::1/128":                  "loopback",
		"224.0.0.0/4":              "multicast",
		"239.1.2.3/32":             "multicast",
		"ff02::/16":                "multicast",
		"255.255.255.255/32":       "broadcast",
		"::ffff:10.0.0.0/104":      "IPv4 written as IPv6",
		"100.64.0.0/10":            tailnet,
		"100.100.0.0/16":           tailnet,
		"fd7a:115c:a1e0::/48":      "Tailscale's own addresses",
		"fd7a:115c:a1e0:ab12::/64": "Tailscale's own addresses",

		"fd7a:115c:a1e0:b1a::/64":              "it spans several 4via6 sites",
		"fd7a:115c:a1e0:b1a::/95":              "it spans several 4via6 sites",
		"fd7a:115c:a1e0:b1a:0:7::/96":          "4via6 for 0.0.0.0/0: " + defaultRoute,
		"fd7a:115c:a1e0:b1a:0:7:a00:0/104":     "",
		"fd7a:115c:a1e0:b1a:0:7:6440:0/106":    "", // 100.64.0.0/10, which only 4via6 can reach
		"fd7a:115c:a1e0:b1a:0:7:a9fe:0/112":    "4via6 for 169.254.0.0/16: link-local, where ECS and EC2 serve credentials and metadata",
		"fd7a:115c:a1e0:b1a:0:7:a9fe:aa02/128": "4via6 for 169.254.170.2/32: link-local, where ECS and EC2 serve credentials and metadata",
		"fd7a:115c:a1e0:b1a:0:7:7f00:0/104":    "4via6 for 127.0.0.0/8: loopback",
		"fd7a:115c:a1e0:b1a:0:7:e000:0/100":    "4via6 for 224.0.0.0/4: multicast",
		"fd7a:115c:a1e0:b1a:0:7:ffff:ffff/128": "4via6 for 255.255.255.255/32: broadcast",
		"fd7a:115c:a1e0:b1a:0:7::/104":         "4via6 for 0.0.0.0/8: not a destination (RFC 1122: this network)",
		"fd7a:115c:a1e0:b1a:1:7:a00:0/104":     "Tailscale rejects 4via6 sites above 65535",
	} {
		prefix := netip.MustParsePrefix(p)
		err := Refuse(prefix)
		if want == "" {
			if err != nil {
				t.Errorf("Refuse(%s): %v", p, err)
			}
			continue
		}
		var refusal Refusal
		if !errors.As(err, &refusal) || refusal != (Refusal{prefix.Masked(), want}) {
			t.Errorf("Refuse(%s)\n got %v\nwant %s", p, err, want)
		}
	}
	if err := Refuse(netip.Prefix{}); err == nil {
		t.Error("Refuse accepts an invalid prefix")
	}
	if got, want := Refuse(netip.MustParsePrefix("127.1.0.0/16")).Error(), "127.1.0.0/16 is never advertised: loopback"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

var destinations = map[string]string{
	"10.0.0.1": "", "100.64.0.1": "", "168.253.255.255": "", "169.253.255.255": "", "169.255.0.0": "",
	"223.255.255.255": "", "240.0.0.1": "", "255.255.255.254": "", "126.255.255.255": "", "128.0.0.0": "", "1.0.0.0": "",
	"2600:1f18::1": "", "fd00:ec1:ffff::1": "", "fd00:ec3::": "", "fec0::1": "", "fe7f::1": "", "::2": "",
	"169.254.0.0": "link-local", "169.254.170.2": "link-local", "169.254.169.254": "link-local", "169.254.255.255": "link-local",
	"127.0.0.1": "loopback", "127.255.255.255": "loopback", "224.0.0.1": "multicast", "239.255.255.255": "multicast",
	"255.255.255.255": "broadcast", "0.0.0.0": "unspecified", "0.255.0.1": "unspecified",
	"fd00:ec2::254": "ec2-metadata", "fd00:ec2:ffff::": "ec2-metadata", "fe80::1": "link-local", "febf::1": "link-local",
	"fe80::1%eth0": "link-local", "::1": "loopback", "::1%lo": "loopback", "::": "unspecified", "ff02::1": "multicast",
	"::ffff:127.0.0.1": "loopback", "::ffff:169.254.170.2": "link-local", "::ffff:10.0.0.1": "",
	"fd7a:115c:a1e0:b1a:0:7:a9fe:aa02": "link-local", "fd7a:115c:a1e0:b1a:ffff:ffff:a9fe:aa02": "link-local",
	"fd7a:115c:a1e0:b1a:0:7:7f00:1": "loopback", "fd7a:115c:a1e0:b1a:0:7:ffff:ffff": "broadcast", "fd7a:115c:a1e0:b1a::": "unspecified",
	"fd7a:115c:a1e0:b1a:0:7:a00:1": "",
}

func TestDenied(t *testing.T) {
	for a, want := range destinations {
		addr := netip.MustParseAddr(a)
		if reason, denied := Denied(addr); reason != want || denied != (want != "") {
			t.Errorf("Denied(%s) = %q, %t; want %q", a, reason, denied, want)
		}
		if n := testing.AllocsPerRun(10, func() { Denied(addr) }); n != 0 {
			t.Errorf("Denied(%s): %v allocations, want 0", a, n)
		}
	}
	if reason, denied := Denied(netip.Addr{}); reason != "invalid" || !denied {
		t.Errorf("Denied of the zero Addr = %q, %t", reason, denied)
	}
}

// An address that the data path denies is never advertised as a single route.
func TestDeniedIsRefused(t *testing.T) {
	for a, want := range destinations {
		addr := netip.MustParseAddr(a).WithZone("")
		if err := Refuse(netip.PrefixFrom(addr, addr.BitLen())); want != "" && err == nil {
			t.Errorf("%s is denied as %s but may be advertised", a, want)
		}
	}
}

func BenchmarkDenied(b *testing.B) {
	for _, a := range []string{"10.0.3.4", "2600:1f18::1", "fd7a:115c:a1e0:b1a:0:7:a00:1"} {
		addr := netip.MustParseAddr(a)
		b.Run(a, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Denied(addr)
			}
		})
	}
}

func TestHoles(t *testing.T) {
	for p, want := range map[string]string{
		"10.0.0.0/8": "", "100.64.0.0/12": "", "0.0.0.0/0": "",
		"100.0.0.0/8":                       "100.64.0.0/10",
		"168.0.0.0/7":                       "169.254.0.0/16",
		"fc00::/7":                          "fd7a:115c:a1e0::/48 fd00:ec2::/32",
		"fd7a:115c:a1e0:b1a:0:7:a800:0/103": "fd7a:115c:a1e0:b1a:0:7:a9fe:0/112",
		"fd7a:115c:a1e0:b1a:0:7:a00:0/104":  "",
	} {
		var got []netip.Prefix
		for _, hole := range Holes(netip.MustParsePrefix(p)) {
			got = append(got, hole.Prefix)
			if hole.Reason == "" {
				t.Errorf("%s: %s without a reason", p, hole.Prefix)
			}
		}
		if !slices.Equal(got, prefixes(want)) {
			t.Errorf("Holes(%s) = %v, want %s", p, got, want)
		}
	}
}
