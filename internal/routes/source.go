package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Kind is the kind of a [Source], which determines where its prefixes come from.
type Kind int

const (
	VPC          Kind = iota // every CIDR associated with the task's VPC
	Subnet                   // the CIDRs of the task's own subnet
	SubnetsByTag             // the CIDRs of the VPC's subnets that carry a tag
	Peerings                 // the destinations in the subnet's route table of peerings and transit gateways
	PrefixList               // the entries of a managed prefix list
	Static                   // the prefix itself
)

// String returns the kind's word in ROUTER_ROUTES or, for the two kinds without one,
// "prefix-list" and "cidr".
func (k Kind) String() string {
	switch k {
	case VPC:
		return "vpc"
	case Subnet:
		return "subnet"
	case SubnetsByTag:
		return "subnets"
	case Peerings:
		return "peerings"
	case PrefixList:
		return "prefix-list"
	case Static:
		return "cidr"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Source is one element of ROUTER_ROUTES.
type Source struct {
	Kind Kind

	Tag, Value string       // SubnetsByTag
	ID         string       // PrefixList: "pl-…"
	Prefix     netip.Prefix // Static; masked
}

// String returns the source in the form that [ParseSources] parses.
func (s Source) String() string {
	switch s.Kind {
	case SubnetsByTag:
		return "subnets:" + s.Tag + "=" + s.Value
	case PrefixList:
		return s.ID
	case Static:
		return s.Prefix.String()
	}
	return s.Kind.String()
}

// Resource identifiers of AWS have 8 hexadecimal digits; since 2018 new ones have 17.
var prefixListID = regexp.MustCompile(`^pl-[0-9a-f]{8,17}$`)

// ParseSources parses a comma-separated list of sources, and returns them in order without
// repetitions. The error joins one error per invalid element, each with the correct form.
func ParseSources(list string) ([]Source, error) {
	return parseList(list, "vpc or 10.0.0.0/16", parseSource)
}

func parseSource(s string) (Source, error) {
	switch s {
	case "vpc":
		return Source{Kind: VPC}, nil
	case "subnet":
		return Source{Kind: Subnet}, nil
	case "peerings":
		return Source{Kind: Peerings}, nil
	}
	if s == "subnets" || strings.HasPrefix(s, "subnets:") {
		tag, value, _ := strings.Cut(strings.TrimPrefix(s, "subnets:"), "=")
		if tag == "" || value == "" {
			return Source{}, fmt.Errorf("%q has no tag and value: write subnets:TAG=VALUE, such as subnets:tier=private", s)
		}
		return Source{Kind: SubnetsByTag, Tag: tag, Value: value}, nil
	}
	if strings.HasPrefix(s, "pl-") {
		if !prefixListID.MatchString(s) {
			return Source{}, fmt.Errorf("%q is not the ID of a prefix list: write one such as pl-0123456789abcdef0", s)
		}
		return Source{Kind: PrefixList, ID: s}, nil
	}
	if _, err := netip.ParseAddr(s); err != nil && !strings.Contains(s, "/") {
		return Source{}, fmt.Errorf("%q is not a source of routes: write vpc, subnet, subnets:TAG=VALUE, peerings, the ID of a prefix list (pl-…) or a CIDR such as 10.0.0.0/16", s)
	}
	p, err := ParsePrefix(s)
	if err != nil {
		return Source{}, err
	}
	return Source{Kind: Static, Prefix: p}, nil
}

// parseList parses a comma-separated list and drops repetitions; example is shown in the error
// about an empty list.
func parseList[T comparable](list, example string, parse func(string) (T, error)) ([]T, error) {
	if strings.TrimSpace(list) == "" {
		return nil, fmt.Errorf("the list is empty: write %s", example)
	}
	var (
		out  []T
		errs []error
	)
	for i, element := range strings.Split(list, ",") {
		element = strings.TrimSpace(element)
		if element == "" {
			errs = append(errs, fmt.Errorf("element %d is empty: remove the extra comma", i+1))
			continue
		}
		v, err := parse(element)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}
