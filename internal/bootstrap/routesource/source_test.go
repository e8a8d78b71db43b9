package routesource

import (
	"net/netip"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		list string
		want []Source
	}{
		{"vpc", []Source{VPC{}}},
		{" vpc , subnet,peerings ", []Source{VPC{}, Subnet{}, Peerings{}}},
		{"10.0.0.0/16,vpc,10.0.0.0/16,vpc", []Source{CIDR{netip.MustParsePrefix("10.0.0.0/16")}, VPC{}}},
		{"fd12:3456::/48", []Source{CIDR{netip.MustParsePrefix("fd12:3456::/48")}}},
		{"pl-0a1b2c3d", []Source{PrefixList{"pl-0a1b2c3d"}}},
		{"subnets:tier=private", []Source{Subnets{"tier", "private"}}},
		{"subnets:aws:x/y=a=b", []Source{Subnets{"aws:x/y", "a=b"}}},
		{"rds:env=prod,lb:Name=web-*", []Source{RDS{"env", "prod"}, LB{"Name", "web-*"}}},
		{"host:db.example.com,host:a-1.", []Source{Host{"db.example.com"}, Host{"a-1."}}},
	} {
		got, err := Parse(tt.list)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("Parse(%q) = %v, %v; want %v", tt.list, got, err, tt.want)
		}
	}
}

func TestParseNamesEveryProblem(t *testing.T) {
	word := ` is not a route source: write ` + Syntaxes()
	for list, want := range map[string]string{
		"":              `the list is empty: write vpc or 10.0.0.0/16`,
		"  ":            `the list is empty: write vpc or 10.0.0.0/16`,
		"vpc,":          `element 2 is empty: remove the extra comma`,
		"VPC":           `"VPC"` + word,
		"subnets":       `"subnets" has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private`,
		"subnets:tier":  `"subnets:tier" has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private`,
		"subnets:=a":    `"subnets:=a" has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private`,
		"rds:tier":      `"rds:tier" has no tag and value: write rds:TAG=VALUE, such as rds:tier=private`,
		"lb":            `"lb" has no tag and value: write lb:TAG=VALUE, such as lb:tier=private`,
		"host:":         `"host:" has no DNS name: write host:NAME, such as host:db.example.com`,
		"host:-a.b":     `"host:-a.b" has no DNS name: write host:NAME, such as host:db.example.com`,
		"host:a:5432":   `"host:a:5432" has no DNS name: write host:NAME, such as host:db.example.com`,
		"host:10.1":     `"host:10.1" has no DNS name: write host:NAME, such as host:db.example.com`,
		"host:10.0.0.5": `"host:10.0.0.5" is an address, not a name: write a CIDR such as 10.0.0.5/32`,
		"pl-":           `"pl-" is not the ID of a prefix list: write one such as pl-0123456789abcdef0`,
		"pl-XYZ":        `"pl-XYZ" is not the ID of a prefix list: write one such as pl-0123456789abcdef0`,
		"10.0.0.5":      `"10.0.0.5" has no length: write 10.0.0.5/32 for this one address`,
		"vcp,,10.0.1.0/16": `"vcp"` + word + "\n" +
			`element 2 is empty: remove the extra comma` + "\n" +
			`"10.0.1.0/16" has host bits set: write 10.0.0.0/16`,
	} {
		got, err := Parse(list)
		if err == nil || err.Error() != want || got != nil {
			t.Errorf("Parse(%q) = %v\n%v\nwant\n%s", list, got, err, want)
		}
	}
}

// FuzzParse: an accepted source is written as it is read.
func FuzzParse(f *testing.F) {
	f.Add("vpc,subnets:a=b,pl-01234567,10.0.0.0/8, peerings,subnet")
	f.Add("subnets:a=,b,::/0")
	f.Fuzz(func(t *testing.T, list string) {
		sources, err := Parse(list)
		if (err == nil) != (len(sources) > 0) {
			t.Fatalf("%q: %v, %v", list, sources, err)
		}
		for _, s := range sources {
			again, err := Parse(s.String())
			if err != nil || len(again) != 1 || again[0] != s {
				t.Fatalf("%q: %q is read as %v, %v", list, s, again, err)
			}
		}
	})
}
