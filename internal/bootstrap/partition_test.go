package bootstrap_test

import (
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
)

// TestPartition: the partition is that of the task's ARN, regardless of the region's name;
// without a task, that of the secret's ARN, then that of the region's endpoints.
func TestPartition(t *testing.T) {
	for _, tc := range []struct {
		taskARN, secret, region string
		partition, note         string
	}{
		{"arn:aws:ecs:eu-west-1:123456789012:task/c/1", "name", "", "aws", ""},
		{"arn:aws-cn:ecs:cn-north-1:123456789012:task/c/1", "name", "", "aws-cn", ""},
		{"arn:aws-us-gov:ecs:us-gov-west-1:123456789012:task/c/1", "name", "", "aws-us-gov", ""},
		{"arn:aws-iso:ecs:us-iso-east-1:123456789012:task/c/1", "name", "", "aws-iso", ""},
		{"arn:aws-iso-b:ecs:us-isob-east-1:123456789012:task/c/1", "name", "", "aws-iso-b", ""},
		{"arn:aws-eusc:ecs:eusc-de-east-1:123456789012:task/c/1", "name", "", "aws-eusc", ""},
		{"arn:aws-new:ecs:moon-north-1:123456789012:task/c/1", "name", "", "aws-new", ""},
		{"arn:aws-cn:ecs:cn-north-1:123456789012:task/c/1", "name", "eu-west-1", "aws-cn", ""},
		{"", "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:name", "", "aws-us-gov", ""},
		{"", "arn:aws-new:secretsmanager:moon-north-1:123456789012:secret:name", "eu-west-1", "aws-new", ""},
		{"", "name", "eusc-de-east-1", "aws-eusc", ""},
		{"", "name", "us-iso-west-1", "aws-iso", ""},
		{"", "name", "us-gov-east-1", "aws-us-gov", ""},
		{"", "name", "", "aws", "the partition is assumed to be aws, as task metadata, ROUTER_AUTH_SECRET and AWS_REGION do not name it: set AWS_REGION"},
	} {
		c := bootstrap.Config{Credential: stored(tc.secret), Routes: routed("pl-0123abcd")}
		if tc.taskARN != "" {
			m, err := awstest.NewMetadata("", awstest.Task{ARN: tc.taskARN, MAC: "06:8f:2a:13:5c:e1"})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			c.MetadataURI = m.URI()
		}
		policy, err := bootstrap.New(c).Policy(t.Context(), tc.region, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range policy.Statement {
			if !strings.HasPrefix(s.Resource[0], "arn:"+tc.partition+":") {
				t.Errorf("%+v: the resource is %s", tc, s.Resource[0])
			}
		}
		if got := strings.Join(policy.Notes, "\n"); got != tc.note {
			t.Errorf("%+v: notes %q", tc, got)
		}
	}
	// A policy without an ARN of ours needs no partition.
	policy, err := bootstrap.New(bootstrap.Config{Credential: literal("tskey-auth-x"), Routes: routed("peerings")}).Policy(t.Context(), "", "")
	if err != nil || len(policy.Notes) > 0 {
		t.Errorf("%v, notes %q", err, policy.Notes)
	}
}

// TestSecretThatLooksComplete allows both the secret whose name ends in six
// letters after a hyphen and the one whose ARN ends so.
func TestSecretThatLooksComplete(t *testing.T) {
	const prefix = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"
	for id, want := range map[string]string{
		prefix + "tailscale/subnet-router":        prefix + "tailscale/subnet-router " + prefix + "tailscale/subnet-router-??????",
		prefix + "tailscale/subnet-router-AbCdEf": prefix + "tailscale/subnet-router-AbCdEf " + prefix + "tailscale/subnet-router-AbCdEf-??????",
		prefix + "tailscale/auth-key":             prefix + "tailscale/auth-key-??????",
		"tailscale/subnet-router":                 "arn:aws:secretsmanager:eu-west-1:*:secret:tailscale/subnet-router-??????",
	} {
		policy, err := bootstrap.New(bootstrap.Config{Credential: stored(id), Routes: routed("10.0.0.0/8")}).Policy(t.Context(), "eu-west-1", "")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(policy.Statement[0].Resource, " "); got != want {
			t.Errorf("%s: %s", id, got)
		}
	}
}
