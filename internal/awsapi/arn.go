package awsapi

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// ARN is an Amazon Resource Name.
type ARN struct {
	Partition string // "aws", "aws-cn", "aws-us-gov", …
	Service   string
	Region    string
	Account   string
	Resource  string // the part after the account: "task/CLUSTER/ID", "secret:NAME"
}

// ParseARN parses an ARN; ok is false if s is not one.
func ParseARN(s string) (a ARN, ok bool) {
	parsed, err := arn.Parse(s)
	if err != nil {
		return ARN{}, false
	}
	return ARN{parsed.Partition, parsed.Service, parsed.Region, parsed.AccountID, parsed.Resource}, true
}

// String returns the ARN in AWS's form.
func (a ARN) String() string {
	return arn.ARN{Partition: a.Partition, Service: a.Service, Region: a.Region, AccountID: a.Account, Resource: a.Resource}.String()
}

// DefaultPartition is the partition of a region that the SDK does not know.
const DefaultPartition = "aws"

// partitionOf maps the domain of endpoints to their partition.
var partitionOf = map[string]string{
	"amazonaws.com.cn": "aws-cn",
	"amazonaws.eu":     "aws-eusc",
	"c2s.ic.gov":       "aws-iso",
	"sc2s.sgov.gov":    "aws-iso-b",
	"cloud.adc-e.uk":   "aws-iso-e",
	"csp.hci.ic.gov":   "aws-iso-f",
}

// Partition returns the partition of a region according to the SDK's endpoints.
func Partition(region string) string {
	endpoint := func(fips bool) string {
		e, err := ec2.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(),
			ec2.EndpointParameters{Region: &region, UseFIPS: aws.Bool(fips)})
		if err != nil {
			return ""
		}
		return e.URI.Hostname()
	}
	plain := endpoint(false)
	_, domain, _ := strings.Cut(strings.TrimPrefix(plain, "ec2."), ".")
	if p := partitionOf[domain]; p != "" {
		return p
	}
	// GovCloud shares the domain of the commercial partition, but its endpoints equal its
	// FIPS endpoints.
	if region != "" && plain != "" && plain == endpoint(true) {
		return "aws-us-gov"
	}
	return DefaultPartition
}

// ServiceHost returns the host name of a service ("secretsmanager", "ssm") in a region, which
// is also its name in kms:ViaService. Without a region it is a pattern that matches all regions
// of the partition.
func ServiceHost(service, partition, region string) string {
	e, err := secretsmanager.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(),
		secretsmanager.EndpointParameters{Region: &region})
	if err == nil && region != "" {
		return service + strings.TrimPrefix(e.URI.Hostname(), "secretsmanager")
	}
	for domain, p := range partitionOf {
		if p == partition {
			return service + ".*." + domain
		}
	}
	return service + ".*.amazonaws.com"
}
