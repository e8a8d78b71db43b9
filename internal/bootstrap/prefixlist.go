package bootstrap

import (
	"context"
	"fmt"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// prefixListSource is the entries of a managed prefix list.
type prefixListSource struct{ id string }

func (s prefixListSource) find(ctx context.Context, b *Bootstrap) (f finding, err error) {
	client, err := b.client(ctx)
	if err != nil {
		return f, err
	}
	entries, err := client.PrefixList(ctx, s.id)
	if err != nil {
		return f, err
	}
	if len(entries) == 0 {
		return f, problem.New("add one, or take the list out of ROUTER_ROUTES", "the prefix list has no entry")
	}
	for _, e := range entries {
		f.add(routes.PrefixList, listed(s.id, e), e.Prefix)
	}
	return f, nil
}

// listed names an entry by what its owner calls it.
func listed(id string, e awsapi.Entry) string {
	if e.Description == "" {
		return "prefix list " + id
	}
	return fmt.Sprintf("prefix list %s (%s)", id, e.Description)
}
