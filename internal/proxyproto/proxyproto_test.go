package proxyproto

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func ap(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

// TestHeader compares headers with bytes composed by hand from section 2.2 of the specification.
func TestHeader(t *testing.T) {
	const start = "0d0a0d0a000d0a515549540a" + "21" // signature; version 2, PROXY
	for name, tc := range map[string]struct {
		h    Header
		want string
	}{
		"IPv4": {Header{Client: ap("100.64.0.2:1000"), Target: ap("10.0.3.4:443")},
			start + "11" + "000c" + "64400002" + "0a000304" + "03e8" + "01bb"},
		"IPv6": {Header{Client: ap("[fd7a:115c:a1e0::2]:1000"), Target: ap("[2001:db8::4]:443")},
			start + "21" + "0024" + "fd7a115ca1e000000000000000000002" + "20010db8000000000000000000000004" + "03e8" + "01bb"},
		"mapped": {Header{Client: ap("[::ffff:100.64.0.2]:1000"), Target: ap("10.0.3.4:443")},
			start + "11" + "000c" + "64400002" + "0a000304" + "03e8" + "01bb"},
		"user": {Header{Client: ap("100.64.0.2:1000"), Target: ap("10.0.3.4:443"), Node: "laptop", User: "a@b.c"},
			start + "11" + "001d" + "64400002" + "0a000304" + "03e8" + "01bb" + "e00006" + hex.EncodeToString([]byte("laptop")) + "e10005" + hex.EncodeToString([]byte("a@b.c"))},
		"tags": {Header{Client: ap("100.64.0.2:1000"), Target: ap("10.0.3.4:443"), Node: "ci", Tags: []string{"tag:a", "tag:b"}},
			start + "11" + "001f" + "64400002" + "0a000304" + "03e8" + "01bb" + "e00002" + "6369" + "e2000b" + hex.EncodeToString([]byte("tag:a,tag:b"))},
		"two families": {Header{Client: ap("100.64.0.2:1000"), Target: ap("[2001:db8::4]:443"), Node: "ci"}, start + "00" + "0005" + "e00002" + "6369"},
		"unknown":      {Header{}, start + "00" + "0000"},
		"too long":     {Header{Client: ap("100.64.0.2:1"), Target: ap("10.0.3.4:2"), Node: strings.Repeat("x", 513)}, start + "11" + "000c" + "64400002" + "0a000304" + "0001" + "0002"},
	} {
		if got := hex.EncodeToString(tc.h.Bytes()); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, tc.want)
		}
	}
	// Whole tags only, and a size that any empty socket buffer takes.
	tags := make([]string, 100)
	for i := range tags {
		tags[i] = "tag:" + strings.Repeat("x", 46)
	}
	b := Header{Client: ap("[::1]:1"), Target: ap("[::1]:2"), Node: strings.Repeat("n", 512), User: strings.Repeat("u", 512), Tags: tags}.Bytes()
	if len(b) > 2048 || int(binary.BigEndian.Uint16(b[14:])) != len(b)-16 || !strings.HasSuffix(string(b), tags[0]) {
		t.Errorf("%d bytes, length %d", len(b), binary.BigEndian.Uint16(b[14:]))
	}
}

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.3.0/24:443": "10.0.3.0/24 443", "10.0.3.4:443": "10.0.3.4/32 443", "2001:db8::/64:443": "2001:db8::/64 443",
		"[2001:db8::/64]:443": "2001:db8::/64 443", "[2001:db8::4]:1": "2001:db8::4/128 1", "0.0.0.0/0:65535": "0.0.0.0/0 65535",
		"": "", "443": "", "10.0.3.0/24": "", "10.0.3.0/24:0": "", "10.0.3.0/24:65536": "", "10.0.3.1/24:443": "", "host:443": "",
		"[2001:db8::/64:443": "", "2001:db8::4:443": "", "[fe80::1%eth0]:443": "", "::ffff:10.0.0.0/104:443": "", "10.0.3.4:0": "", "10.0.3.0/24:+1": "",
	} {
		got, err := ParseTarget(s)
		text := ""
		if err == nil {
			text = got.Prefix.String() + " " + strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), got.Port).String(), "0.0.0.0:")
		}
		if text != want {
			t.Errorf("%q: got %q, %v, want %q", s, text, err, want)
		}
	}
	target, _ := ParseTarget("10.0.3.0/24:443")
	for s, want := range map[string]bool{"10.0.3.4:443": true, "10.0.3.4:444": false, "10.0.4.4:443": false, "[2001:db8::4]:443": false} {
		if target.Contains(ap(s)) != want {
			t.Errorf("%s: got %v", s, !want)
		}
	}
}
