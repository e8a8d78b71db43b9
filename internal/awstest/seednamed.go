package awstest

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"
)

// SeedNamed creates resources with a tag by whose names routes are found, and returns w with
// them: a database, a cluster and a load balancer. A database without the tag is
// the first. The load balancer is in the subnet of the first interface.
func (m *Moto) SeedNamed(ctx context.Context, w World, tag, value string) (World, error) {
	tags := map[string]string{tag: value}
	databases := rds.NewFromConfig(m.config(w.region()))
	rdsTag := []rdstypes.Tag{{Key: &tag, Value: &value}}
	for _, d := range []struct {
		id   string
		tags []rdstypes.Tag
	}{{"untagged", nil}, {"orders", rdsTag}} {
		out, err := databases.CreateDBInstance(ctx, &rds.CreateDBInstanceInput{
			DBInstanceIdentifier: &d.id, DBInstanceClass: aws.String("db.t3.micro"), Engine: aws.String("postgres"),
			AllocatedStorage: aws.Int32(20), MasterUsername: aws.String("postgres"), MasterUserPassword: aws.String("password"), Tags: d.tags,
		})
		if err != nil {
			return World{}, fmt.Errorf("creating database %s: %w", d.id, err)
		}
		database := Database{ID: d.id, Endpoint: *out.DBInstance.Endpoint.Address}
		if d.tags != nil {
			database.Tags = tags
		}
		w.Databases = append(w.Databases, database)
	}
	cluster, err := databases.CreateDBCluster(ctx, &rds.CreateDBClusterInput{
		DBClusterIdentifier: aws.String("shop"), Engine: aws.String("aurora-postgresql"),
		MasterUsername: aws.String("postgres"), MasterUserPassword: aws.String("password"), Tags: rdsTag,
	})
	if err != nil {
		return World{}, fmt.Errorf("creating a cluster: %w", err)
	}
	w.DBClusters = append(w.DBClusters, DatabaseCluster{
		ID: "shop", Endpoint: aws.ToString(cluster.DBCluster.Endpoint), Reader: aws.ToString(cluster.DBCluster.ReaderEndpoint), Tags: tags,
	})

	out, err := elb.NewFromConfig(m.config(w.region())).CreateLoadBalancer(ctx, &elb.CreateLoadBalancerInput{
		Name: aws.String("web"), Type: elbtypes.LoadBalancerTypeEnumNetwork, Scheme: elbtypes.LoadBalancerSchemeEnumInternal,
		Subnets: []string{w.Interfaces[0].SubnetID}, Tags: []elbtypes.Tag{{Key: &tag, Value: &value}},
	})
	if err != nil {
		return World{}, fmt.Errorf("creating a load balancer: %w", err)
	}
	w.LoadBalancers = append(w.LoadBalancers, LoadBalancer{Name: "web", Type: "network", DNS: *out.LoadBalancers[0].DNSName, Tags: tags})
	return w, nil
}

// DeleteNamed deletes the load balancers of SeedNamed, without which their subnet can be
// deleted.
func (m *Moto) DeleteNamed(ctx context.Context, w World) error {
	client := elb.NewFromConfig(m.config(w.region()))
	out, err := client.DescribeLoadBalancers(ctx, &elb.DescribeLoadBalancersInput{})
	if err != nil {
		return err
	}
	for _, b := range out.LoadBalancers {
		if _, err := client.DeleteLoadBalancer(ctx, &elb.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn}); err != nil {
			return err
		}
	}
	return nil
}
