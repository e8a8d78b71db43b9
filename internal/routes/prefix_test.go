package routes

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParsePrefix(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.0/16":          "",
		"10.0.0.5/32":          "",
		"0.0.0.0/0":            "", // well formed, although Refuse refuses it
		"fd12:3456::/48":       "",
		"10.0.1.5/16":          `"10.0.1.5/16" has host bits set: write 10.0.0.0/16`,
		"fd12:3456::1/48":      `"fd12:3456::1/48" has host bits set: write fd12:3456::/48`,
		"10.0.0.5":             `"10.0.0.5" has no length: write 10.0.0.5/32 for this one address`,
		"fd12::1":              `"fd12::1" has no length: write fd12::1/128 for this one address`,
		"::ffff:10.0.0.5":      `"::ffff:10.0.0.5" has no length: write 10.0.0.5/32 for this one address`,
		"::ffff:10.0.0.0/104":  `"::ffff:10.0.0.0/104" is IPv4 written as IPv6: write 10.0.0.0/8`,
		"::ffff:10.1.2.3/104":  `"::ffff:10.1.2.3/104" is IPv4 written as IPv6: write 10.0.0.0/8`,
		"10.0.0.0/33":          `"10.0.0.0/33" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`,
		"10.0.0/16":            `"10.0.0/16" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`,
		"10.0.0.0/255.255.0.0": `"10.0.0.0/255.255.0.0" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`,
		"fe80::%eth0/64":       `"fe80::%eth0/64" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`,
		"fe80::1%eth0":         `"fe80::1%eth0" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`,
		"":                     `"" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`,
	} {
		p, err := ParsePrefix(s)
		switch {
		case want == "" && (err != nil || p.String() != s):
			t.Errorf("ParsePrefix(%q) = %v, %v", s, p, err)
		case want != "" && (err == nil || err.Error() != want):
			t.Errorf("ParsePrefix(%q)\n got %v\nwant %s", s, err, want)
		}
	}
}

func TestParsePrefixes(t *testing.T) {
	got, err := ParsePrefixes(" 10.0.0.0/16, fd12:3456::/48,10.0.0.0/16")
	if want := prefixes("10.0.0.0/16 fd12:3456::/48"); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	_, err = ParsePrefixes("10.0.0.1/16,x")
	want := `"10.0.0.1/16" has host bits set: write 10.0.0.0/16` + "\n" +
		`"x" is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err = ParsePrefixes(""); err == nil || err.Error() != "the list is empty: write CIDRs such as 10.0.0.0/16" {
		t.Errorf("empty list: %v", err)
	}
}

func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"10.0.0.0/16", "10.0.0.1/16", "10.0.0.1", "::/0", "::ffff:1.2.3.4/100", "fe80::1%a/64", "", "/", "1.2.3.4/-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if err != nil {
			if p.IsValid() {
				t.Fatalf("%q: prefix %v with error %v", s, p, err)
			}
			// The prefix that the error suggests must be valid.
			_, advice, ok := strings.Cut(err.Error(), ": write ")
			if !ok {
				t.Fatalf("%q: no advice in %q", s, err)
			}
			advice = strings.TrimPrefix(advice, "one such as ")
			if _, err := ParsePrefix(strings.Fields(advice)[0]); err != nil {
				t.Fatalf("%q: bad advice: %v", s, err)
			}
			return
		}
		if p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 {
			t.Fatalf("%q: %v is not canonical", s, p)
		}
		if again, err := ParsePrefix(p.String()); again != p || err != nil {
			t.Fatalf("%q: %v reads back as %v, %v", s, p, again, err)
		}
	})
}

// prefixes parses a list separated by spaces.
func prefixes(list string) []netip.Prefix {
	var out []netip.Prefix
	for s := range strings.FieldsSeq(list) {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
