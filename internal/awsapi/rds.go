package awsapi

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// The actions that [Client.Databases] needs. The answers about instances and clusters contain
// their tags; those about proxies do not.
var (
	DescribeDBInstances      = Action{Name: "rds:DescribeDBInstances"}
	DescribeDBClusters       = Action{Name: "rds:DescribeDBClusters"}
	DescribeDBProxies        = Action{Name: "rds:DescribeDBProxies"}
	DescribeDBProxyEndpoints = Action{Name: "rds:DescribeDBProxyEndpoints"}
	ListTagsForDBResource    = Action{Name: "rds:ListTagsForResource"}
)

// Databases returns the endpoints of the region's RDS instances, clusters and proxies with a
// tag, in whose value * and ? are wildcards. Those of a cluster include its members': the
// reader endpoint resolves to one of them at a time, a different one each second. An answer
// without any endpoint is an error: accepting it would withdraw their routes.
func (c *Client) Databases(ctx context.Context, tag, value string) ([]Endpoint, error) {
	d := databases{client: c, about: fmt.Sprintf("the databases with tag %s=%s", tag, value), tagged: func(tags []types.Tag) bool {
		for _, t := range tags {
			if aws.ToString(t.Key) == tag {
				return tagPattern(value).MatchString(aws.ToString(t.Value))
			}
		}
		return false
	}}
	for _, look := range []func(context.Context) error{d.clusters, d.instances, d.proxies} {
		if err := look(ctx); err != nil {
			return nil, err
		}
	}
	if len(d.found) == 0 {
		return nil, d.request(DescribeDBInstances).fail(problem.RoutesUnknown, "", "there is none with an endpoint", "correct the tag in ROUTER_ROUTES, or tag an instance, cluster or proxy")
	}
	return d.found, nil
}

// databases is one look-up of [Client.Databases].
type databases struct {
	client *Client
	about  string
	tagged func([]types.Tag) bool

	taggedClusters map[string]bool // by identifier
	found          []Endpoint
}

func (d *databases) request(a Action) request { return d.client.describe(a, d.about, "") }

// add adds the endpoint of a resource; one that is being created has none yet.
func (d *databases) add(name *string, resource string, id *string) {
	if n := aws.ToString(name); n != "" {
		d.found = append(d.found, Endpoint{Name: n, Resource: resource + " " + secret.Clean(aws.ToString(id), maxCode)})
	}
}

func (d *databases) clusters(ctx context.Context) error {
	d.taggedClusters = map[string]bool{}
	pages := rds.NewDescribeDBClustersPaginator(d.client.rds, &rds.DescribeDBClustersInput{})
	for pages.HasMorePages() {
		out, err := nextPage(ctx, d.client, d.request(DescribeDBClusters), pages.NextPage)
		if err != nil {
			return err
		}
		for _, cluster := range out.DBClusters {
			if !d.tagged(cluster.TagList) {
				continue
			}
			d.taggedClusters[aws.ToString(cluster.DBClusterIdentifier)] = true
			d.add(cluster.Endpoint, "database cluster", cluster.DBClusterIdentifier)
			d.add(cluster.ReaderEndpoint, "readers of database cluster", cluster.DBClusterIdentifier)
			for _, custom := range cluster.CustomEndpoints {
				d.add(&custom, "custom endpoint of database cluster", cluster.DBClusterIdentifier)
			}
		}
	}
	return nil
}

func (d *databases) instances(ctx context.Context) error {
	pages := rds.NewDescribeDBInstancesPaginator(d.client.rds, &rds.DescribeDBInstancesInput{})
	for pages.HasMorePages() {
		out, err := nextPage(ctx, d.client, d.request(DescribeDBInstances), pages.NextPage)
		if err != nil {
			return err
		}
		for _, instance := range out.DBInstances {
			if instance.Endpoint == nil || !d.tagged(instance.TagList) && !d.taggedClusters[aws.ToString(instance.DBClusterIdentifier)] {
				continue
			}
			d.add(instance.Endpoint.Address, "database", instance.DBInstanceIdentifier)
		}
	}
	return nil
}

func (d *databases) proxies(ctx context.Context) error {
	pages := rds.NewDescribeDBProxiesPaginator(d.client.rds, &rds.DescribeDBProxiesInput{})
	for pages.HasMorePages() {
		out, err := nextPage(ctx, d.client, d.request(DescribeDBProxies), pages.NextPage)
		if err != nil {
			return err
		}
		for _, proxy := range out.DBProxies {
			if err := d.proxy(ctx, proxy); err != nil {
				return err
			}
		}
	}
	return nil
}

// proxy adds the endpoints of a proxy, if it has the tag.
func (d *databases) proxy(ctx context.Context, proxy types.DBProxy) error {
	req := d.request(ListTagsForDBResource)
	req.resource = "the tags of database proxy " + secret.Clean(aws.ToString(proxy.DBProxyName), maxCode)
	var tags *rds.ListTagsForResourceOutput
	err := d.client.call(ctx, req, func(ctx context.Context) (err error) {
		tags, err = d.client.rds.ListTagsForResource(ctx, &rds.ListTagsForResourceInput{ResourceName: proxy.DBProxyArn})
		return err
	})
	if isCode(err, "DBProxyNotFoundFault") { // deleted since it was listed
		return nil
	}
	if err != nil || !d.tagged(tags.TagList) {
		return err
	}
	d.add(proxy.Endpoint, "database proxy", proxy.DBProxyName)
	pages := rds.NewDescribeDBProxyEndpointsPaginator(d.client.rds, &rds.DescribeDBProxyEndpointsInput{DBProxyName: proxy.DBProxyName})
	for pages.HasMorePages() {
		out, err := nextPage(ctx, d.client, d.request(DescribeDBProxyEndpoints), pages.NextPage)
		if err != nil {
			return err
		}
		for _, e := range out.DBProxyEndpoints {
			if !aws.ToBool(e.IsDefault) {
				d.add(e.Endpoint, "endpoint of database proxy", proxy.DBProxyName)
			}
		}
	}
	return nil
}
