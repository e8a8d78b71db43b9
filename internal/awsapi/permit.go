package awsapi

import (
	"context"
	"errors"
	"time"

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

// Action is an AWS action that the router may call. Each is defined next to the
// method of [Client] that calls it.
type Action struct {
	Name string // as IAM spells it: "ec2:DescribeVpcs"

	// dryRun requests a dry run from EC2; nil if AWS has none for the action.
	dryRun func(ctx context.Context, c *ec2.Client, resource string) error
	// onResource reports that the dry run needs a resource.
	onResource bool
}

// HasDryRun reports whether the action has a dry run on a resource; "" means none.
func (a Action) HasDryRun(resource string) bool {
	return a.dryRun != nil && (resource != "" || !a.onResource)
}

// ErrNoDryRun is returned for an action without a dry run.
var ErrNoDryRun = errors.New("the action has no dry run")

// Permitted makes a dry run of an action and returns nil if EC2 would allow it. resource is
// the ID of a resource, for an action that needs one.
func (c *Client) Permitted(ctx context.Context, a Action, resource string) error {
	if !a.HasDryRun(resource) {
		return ErrNoDryRun
	}
	req := c.describe(a, "a dry run", "")
	if resource != "" {
		req.resource += " on " + resource
	}
	return c.call(ctx, req, func(ctx context.Context) error {
		err := a.dryRun(ctx, c.ec2, resource)
		// "Request would have succeeded, but DryRun flag is set." is an error.
		if api := smithy.APIError(nil); errors.As(err, &api) && api.ErrorCode() == "DryRunOperation" {
			return nil
		}
		return err
	})
}
