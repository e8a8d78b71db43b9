package awsapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
)

// Caller describes the credentials that sign AWS calls, without the credentials themselves.
type Caller struct {
	Source  string    // the SDK's name of the provider: "CredentialsEndpointProvider", "EnvConfigCredentials"
	Account string    // "" if the provider does not report it
	Expires time.Time // zero if they do not expire
}

// Caller retrieves the credentials, as each call does, and describes them.
func (c *Client) Caller(ctx context.Context) (Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, c.callTimeout)
	defer cancel()
	v, err := c.config.Credentials.Retrieve(ctx)
	if err != nil {
		return Caller{}, request{op: "credentials", resource: "the task", region: c.Region()}.credentialError(ctx, err)
	}
	s := Caller{Source: v.Source, Account: v.AccountID}
	if v.CanExpire {
		s.Expires = v.Expires
	}
	return s, nil
}

// ErrNoDryRun says that an action cannot be tried without doing it.
var ErrNoDryRun = errors.New("the action has no dry run")

// Permitted asks EC2 whether it would do an action, without the answer: a dry
// run. nil is yes. prefixList is what ec2:GetManagedPrefixListEntries would read.
func (c *Client) Permitted(ctx context.Context, action, prefixList string) error {
	dry := aws.Bool(true)
	var do func(context.Context) error
	switch action {
	case "ec2:DescribeNetworkInterfaces":
		do = func(ctx context.Context) error {
			_, err := c.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{DryRun: dry})
			return err
		}
	case "ec2:DescribeVpcs":
		do = func(ctx context.Context) error {
			_, err := c.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{DryRun: dry})
			return err
		}
	case "ec2:DescribeSubnets":
		do = func(ctx context.Context) error {
			_, err := c.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{DryRun: dry})
			return err
		}
	case "ec2:DescribeRouteTables":
		do = func(ctx context.Context) error {
			_, err := c.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{DryRun: dry})
			return err
		}
	case "ec2:DescribeVpcPeeringConnections":
		do = func(ctx context.Context) error {
			_, err := c.ec2.DescribeVpcPeeringConnections(ctx, &ec2.DescribeVpcPeeringConnectionsInput{DryRun: dry})
			return err
		}
	case "ec2:GetManagedPrefixListEntries":
		do = func(ctx context.Context) error {
			_, err := c.ec2.GetManagedPrefixListEntries(ctx, &ec2.GetManagedPrefixListEntriesInput{PrefixListId: &prefixList, DryRun: dry})
			return err
		}
	default:
		return ErrNoDryRun
	}
	name := strings.TrimPrefix(action, "ec2:")
	req := c.describe(name, "a dry run", "")
	if prefixList != "" {
		req.resource += " on " + prefixList
	}
	return c.call(ctx, req, func(ctx context.Context) error {
		err := do(ctx)
		// "Request would have succeeded, but DryRun flag is set." is an error.
		if api := smithy.APIError(nil); errors.As(err, &api) && api.ErrorCode() == "DryRunOperation" {
			return nil
		}
		return err
	})
}
