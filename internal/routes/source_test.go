package routes

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParseSources(t *testing.T) {
	for _, tt := range []struct {
		list string
		want []Source
	}{
		{"vpc", []Source{{Kind: VPC}}},
		{" vpc , subnet,peerings ", []Source{{Kind: VPC}, {Kind: Subnet}, {Kind: Peerings}}},
		{"10.0.0.0/16,vpc,10.0.0.0/16,vpc", []Source{{Kind: Static, Prefix: netip.MustParsePrefix("10.0.0.0/16")}, {Kind: VPC}}},
		{"fd12:3456::/48", []Source{{Kind: Static, Prefix: netip.MustParsePrefix("fd12:3456::/48")}}},
		{"pl-0a1b2c3d", []Source{{Kind: PrefixList, ID: "pl-0a1b2c3d"}}},
		{"subnets:tier=private", []Source{{Kind: SubnetsByTag, Tag: "tier", Value: "private"}}},
		{"subnets:aws:x/y=a=b", []Source{{Kind: SubnetsByTag, Tag: "aws:x/y", Value: "a=b"}}},
	} {
		got, err := ParseSources(tt.list)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("ParseSources(%q) = %v, %v; want %v", tt.list, got, err, tt.want)
		}
	}
}

func TestParseSourcesNamesEveryProblem(t *testing.T) {
	const word = ` is not a source of routes: write vpc, subnet, subnets:TAG=VALUE, peerings, the ID of a prefix list (pl-…) or a CIDR such as 10.0.0.0/16`
	for list, want := range map[string]string{
		"":             `the list is empty: write vpc or 10.0.0.0/16`,
		"  ":           `the list is empty: write vpc or 10.0.0.0/16`,
		"vpc,":         `element 2 is empty: remove the extra comma`,
		"VPC":          `"VPC"` + word,
		"subnets":      `"subnets" has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private`,
		"subnets:tier": `"subnets:tier" has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private`,
		"subnets:=a":   `"subnets:=a" has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private`,
		"pl-":          `"pl-" is not the ID of a prefix list: write one such as pl-0123456789abcdef0`,
		"pl-XYZ":       `"pl-XYZ" is not the ID of a prefix list: write one such as pl-0123456789abcdef0`,
		"10.0.0.5":     `"10.0.0.5" has no length: write 10.0.0.5/32 for this one address`,
		"vcp,,10.0.1.0/16": `"vcp"` + word + "\n" +
			`element 2 is empty: remove the extra comma` + "\n" +
			`"10.0.1.0/16" has host bits set: write 10.0.0.0/16`,
	} {
		got, err := ParseSources(list)
		if err == nil || err.Error() != want || got != nil {
			t.Errorf("ParseSources(%q) = %v\n%v\nwant\n%s", list, got, err, want)
		}
	}
}

func TestSourceStringIsParsedBack(t *testing.T) {
	const list = "vpc,subnet,subnets:tier=private,peerings,pl-0123456789abcdef0,10.0.0.0/16"
	sources, err := ParseSources(list)
	if err != nil {
		t.Fatal(err)
	}
	var words, kinds []string
	for _, s := range sources {
		words = append(words, s.String())
		kinds = append(kinds, s.Kind.String())
	}
	if got := strings.Join(words, ","); got != list {
		t.Errorf("got %s, want %s", got, list)
	}
	if got, want := strings.Join(kinds, ","), "vpc,subnet,subnets,peerings,prefix-list,cidr"; got != want {
		t.Errorf("kinds: got %s, want %s", got, want)
	}
}
