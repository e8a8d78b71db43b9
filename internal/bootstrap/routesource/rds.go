package routesource

import (
	"context"
	"fmt"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
)

var rds = &Kind{
	Syntax:  "rds:TAG=VALUE",
	Help:    "the addresses of RDS and Aurora databases with that tag, by all of their endpoints",
	Example: "rds:tier=private",
	parse: func(s string) (Source, bool, error) {
		tag, value, mine, err := tagged("rds", s, "rds:tier=private")
		if !mine || err != nil {
			return nil, mine, err
		}
		return RDS{Tag: tag, Value: value}, true, nil
	},
}

// RDS is the endpoints of the region's database instances, clusters and proxies with a tag.
type RDS struct{ Tag, Value string }

func (s RDS) String() string { return "rds:" + s.Tag + "=" + s.Value }
func (RDS) kind() *Kind      { return rds }

// Needs returns the actions of [RDS.find]. The tags of instances and clusters are in the
// answers of the Describe actions, so that only proxies need a call for theirs. Reading tags
// with tag:GetResources would take as many actions, show the tags of every service's
// resources, and need another endpoint in a subnet without a way out.
func (s RDS) Needs() []iam.Need {
	return []iam.Need{
		{Action: awsapi.DescribeDBClusters},
		{Action: awsapi.DescribeDBInstances},
		{Action: awsapi.DescribeDBProxies},
		{Action: awsapi.ListTagsForDBResource, Allow: func(scope iam.Scope) []iam.Statement {
			return []iam.Statement{iam.Allow("ReadProxyTags", awsapi.ListTagsForDBResource.Name, scope.ARN("rds", "*", "db-proxy:*"))}
		}},
		{Action: awsapi.DescribeDBProxyEndpoints},
	}
}

func (s RDS) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	client, err := p.AWS(ctx)
	if err != nil {
		return f, err
	}
	endpoints, err := client.Databases(ctx, s.Tag, s.Value)
	f.followAll(endpoints, s.Tag, s.Value)
	return f, err
}

// followAll adds the names of endpoints.
func (f *finding) followAll(endpoints []awsapi.Endpoint, tag, value string) {
	for _, e := range endpoints {
		f.follow(e.Name, fmt.Sprintf("%s (%s=%s)", e.Resource, tag, value))
	}
}
