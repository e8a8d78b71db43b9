package routes

import (
	"net/netip"
	"testing"
)

func TestVia(t *testing.T) {
	for _, tt := range []struct {
		site    uint32
		v4, via string
	}{
		// As printed by `tailscale debug via 7 10.1.0.0/16`.
		{7, "10.1.0.0/16", "fd7a:115c:a1e0:b1a:0:7:a01:0/112"},
		{0, "10.0.0.0/8", "fd7a:115c:a1e0:b1a::a00:0/104"},
		{0xffff, "192.168.1.1/32", "fd7a:115c:a1e0:b1a:0:ffff:c0a8:101/128"},
		{1, "10.1.2.3/16", "fd7a:115c:a1e0:b1a:0:1:a01:0/112"},
	} {
		via, err := Via(tt.site, netip.MustParsePrefix(tt.v4))
		if err != nil || via.String() != tt.via {
			t.Errorf("Via(%d, %s) = %v, %v; want %s", tt.site, tt.v4, via, err, tt.via)
			continue
		}
		site, v4, ok := Unvia(via.Addr())
		if want := netip.MustParsePrefix(tt.v4).Masked().Addr(); !ok || site != tt.site || v4 != want {
			t.Errorf("Unvia(%v) = %d, %v, %t", via.Addr(), site, v4, ok)
		}
	}
	for want, err := range map[string]error{
		"mapping fd00::/8 to 4via6: only IPv4 can be mapped":          viaError(1, netip.MustParsePrefix("fd00::/8")),
		"mapping invalid Prefix to 4via6: only IPv4 can be mapped":    viaError(1, netip.Prefix{}),
		"mapping 10.0.0.0/8 to 4via6: site 65536 is above 65535":      viaError(65536, netip.MustParsePrefix("10.0.0.0/8")),
		"mapping ::ffff:0.0.0.0/96 to 4via6: only IPv4 can be mapped": viaError(1, netip.MustParsePrefix("::ffff:0.0.0.0/96")),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func viaError(site uint32, p netip.Prefix) error {
	_, err := Via(site, p)
	return err
}

func TestTarget(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.2.3":                                "10.1.2.3",
		"::ffff:10.1.2.3":                         "10.1.2.3",
		"fd7a:115c:a1e0:b1a:0:7:a01:203":          "10.1.2.3",
		"fd7a:115c:a1e0:b1a:1:2:a9fe:aa02":        "169.254.170.2", // sites beyond MaxSite too
		"fd7a:115c:a1e0:b1b:0:7:a01:203":          "fd7a:115c:a1e0:b1b:0:7:a01:203",
		"fd7a:115c:a1e0:ab12:4843:cd96:6258:b240": "fd7a:115c:a1e0:ab12:4843:cd96:6258:b240",
		"2001:db8::1":                             "2001:db8::1",
	} {
		if got := Target(netip.MustParseAddr(in)); got.String() != want {
			t.Errorf("Target(%s) = %v, want %s", in, got, want)
		}
	}
	if got := Target(netip.Addr{}); got.IsValid() {
		t.Errorf("Target of the zero Addr = %v", got)
	}
}

func TestViaName(t *testing.T) {
	// The form that tailscale.com's resolver parses (resolveViaDomain).
	if got := ViaName(7, netip.MustParseAddr("10.0.3.4")); got != "10-0-3-4-via-7" {
		t.Errorf("got %s", got)
	}
}

func FuzzVia(f *testing.F) {
	f.Add(uint32(7), []byte{10, 1, 0, 0}, uint8(16))
	f.Add(uint32(MaxSite), []byte{255, 255, 255, 255}, uint8(32))
	f.Fuzz(func(t *testing.T, site uint32, raw []byte, bits uint8) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok || !a.Is4() {
			return
		}
		p := netip.PrefixFrom(a, int(bits)%33).Masked()
		via, err := Via(site, p)
		if (err != nil) != (site > MaxSite) {
			t.Fatalf("Via(%d, %v): %v", site, p, err)
		}
		if err != nil {
			return
		}
		gotSite, v4, ok := Unvia(via.Addr())
		if !ok || gotSite != site || netip.PrefixFrom(v4, via.Bits()-viaSiteBits) != p {
			t.Fatalf("Via(%d, %v) = %v, of which Unvia returns %d, %v", site, p, via, gotSite, v4)
		}
		if via != via.Masked() || Target(via.Addr()) != p.Addr() {
			t.Fatalf("Via(%d, %v) = %v", site, p, via)
		}
	})
}
