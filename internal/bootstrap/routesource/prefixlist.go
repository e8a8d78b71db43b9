package routesource

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
)

var prefixList = &Kind{
	Syntax:  "pl-…",
	Help:    "a prefix list",
	Example: "pl-0123abcd",
	parse: func(s string) (Source, bool, error) {
		if !strings.HasPrefix(s, "pl-") {
			return nil, false, nil
		}
		if !prefixListID.MatchString(s) {
			return nil, true, fmt.Errorf("%q is not the ID of a prefix list: write one such as pl-0123456789abcdef0", s)
		}
		return PrefixList{ID: s}, true, nil
	},
}

// prefixListID matches AWS's resource IDs: 8 hexadecimal digits, since 2018 17.
var prefixListID = regexp.MustCompile(`^pl-[0-9a-f]{8,17}$`)

// PrefixList is the entries of a managed prefix list.
type PrefixList struct{ ID string }

func (s PrefixList) String() string { return s.ID }
func (PrefixList) kind() *Kind      { return prefixList }

// Needs returns the action of [PrefixList.find].
func (s PrefixList) Needs() []iam.Need {
	return []iam.Need{{
		Action: awsapi.GetManagedPrefixListEntries, Try: s.ID,
		Allow: func(scope iam.Scope) []iam.Statement {
			// AWS's own lists have the account "aws", shared ones that of their owner.
			return readPrefixLists(scope.ARN("ec2", "*", "prefix-list/"+s.ID))
		},
	}}
}

func readPrefixLists(resource string) []iam.Statement {
	return []iam.Statement{iam.Allow("ReadPrefixLists", awsapi.GetManagedPrefixListEntries.Name, resource)}
}

func (s PrefixList) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	client, err := p.AWS(ctx)
	if err != nil {
		return f, err
	}
	entries, err := client.PrefixList(ctx, s.ID)
	if err != nil {
		return f, err
	}
	if len(entries) == 0 {
		return f, problem.New("add one, or take the list out of ROUTER_ROUTES", "the prefix list has no entry")
	}
	for _, e := range entries {
		f.add(FromPrefixList, listed(s.ID, e), e.Prefix)
	}
	return f, nil
}

// listed returns the source of an entry, with the owner's description of it.
func listed(id string, e awsapi.Entry) string {
	if e.Description == "" {
		return "prefix list " + id
	}
	return fmt.Sprintf("prefix list %s (%s)", id, e.Description)
}
