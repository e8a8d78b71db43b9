package bootstrap_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/routesource"
)

// TestActionsAreTheCalls compares the needs of the sources with the calls on the wire, for
// each source, each pair and all: the calls made and the actions allowed are the same.
func TestActionsAreTheCalls(t *testing.T) {
	var all []string
	for _, k := range routesource.Kinds() {
		if none := (routesource.None{}); k != routesource.KindOf(none) { // which is always alone
			all = append(all, k.Example)
		}
	}
	sets := [][]string{all, {routesource.None{}.String()}}
	for i, s := range all {
		sets = append(sets, []string{s})
		for _, other := range all[:i] {
			sets = append(sets, []string{s, other})
		}
	}
	for _, chosen := range sets {
		for place, task := range map[string]awstest.Task{"fargate": fargate(), "ec2": ec2()} {
			for _, credential := range []string{"secret", "literal", "federation"} {
				a := start(t, task)
				a.Server.Update(addNetwork)
				c := a.config(strings.Join(chosen, ","))
				c.LookupHost = resolve
				if credential == "literal" {
					c.Credential.AuthKey, c.Credential.Secret.ID = "tskey-auth-x", ""
				}
				if credential == "federation" {
					c.Credential.Secret.ID, c.Credential.ClientID, c.Credential.Audience, c.Credential.APIURL = "", "k1", "api.tailscale.com/k1", "http://127.0.0.1:1"
				}
				b := bootstrap.New(c)
				if _, err := b.Routes(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, _, err := b.Credential(t.Context()); err != nil && credential != "federation" {
					t.Fatal(err) // with federation, the API after AWS is not there
				}
				calls := a.Calls()
				slices.Sort(calls)
				calls = slices.Compact(calls)
				want := bootstrap.Actions(c, place == "ec2")
				slices.Sort(want)
				if !slices.Equal(calls, want) {
					t.Errorf("%s with %v, %s:\ncalled  %v\nallowed %v", place, chosen, credential, calls, want)
				}

				// The document allows just these.
				policy, err := b.Policy(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				var allowed []string
				for _, s := range policy.Statement {
					allowed = append(allowed, s.Action...)
				}
				slices.Sort(allowed)
				if !slices.Equal(allowed, want) {
					t.Errorf("%s with %v, %s: the policy allows %v, want %v", place, chosen, credential, allowed, want)
				}
				a.Server.Close()
				a.Metadata.Close()
			}
		}
	}
}

// TestNeedsPlace looks up each kind of source outside ECS: exactly those with NeedsPlace fail.
func TestNeedsPlace(t *testing.T) {
	for _, k := range routesource.Kinds() {
		a := start(t, fargate())
		a.Server.Update(addNetwork)
		t.Setenv("AWS_REGION", "eu-west-1")
		c := a.config(k.Example)
		c.MetadataURI, c.LookupHost = "", resolve
		if _, err := bootstrap.New(c).Routes(t.Context()); (err != nil) != k.NeedsPlace {
			t.Errorf("%s needs the place: %v; without it: %v", k.Syntax, k.NeedsPlace, err)
		}
	}
}

func TestPolicy(t *testing.T) {
	a := start(t, fargate())
	for name, test := range map[string]struct {
		change      func(*bootstrap.Config)
		region, key string
		want        string
	}{
		"default, in the task": {nil, "", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadCredential","Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws:secretsmanager:eu-west-1:123456789012:secret:router/key-??????"]},` +
				`{"Sid":"ReadNetwork","Effect":"Allow","Action":["ec2:DescribeNetworkInterfaces","ec2:DescribeVpcs"],"Resource":["*"]}]}`},
		"on a laptop": {func(c *bootstrap.Config) { c.MetadataURI, c.Routes.Sources = "", parse("pl-0123abcd,pl-63a5400a") }, "", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadCredential","Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws:secretsmanager:*:*:secret:router/key-??????"]},` +
				`{"Sid":"ReadPrefixLists","Effect":"Allow","Action":["ec2:GetManagedPrefixListEntries"],"Resource":["arn:aws:ec2:*:*:prefix-list/pl-0123abcd","arn:aws:ec2:*:*:prefix-list/pl-63a5400a"]}]}`},
		"own key": {func(c *bootstrap.Config) { c.MetadataURI, c.Routes.Sources = "", parse("10.0.0.0/8") }, "cn-north-1", "arn:aws-cn:kms:cn-north-1:123456789012:key/k",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadCredential","Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws-cn:secretsmanager:cn-north-1:*:secret:router/key-??????"]},` +
				`{"Sid":"DecryptCredential","Effect":"Allow","Action":["kms:Decrypt"],"Resource":["arn:aws-cn:kms:cn-north-1:123456789012:key/k"],"Condition":{"StringLike":{"kms:ViaService":"secretsmanager.cn-north-1.amazonaws.com.cn"}}}]}`},
		"whole ARN": {func(c *bootstrap.Config) {
			c.Routes.Sources, c.Credential.Secret.ID = parse("subnet"), "arn:aws:secretsmanager:us-east-2:123456789012:secret:x-AbCdEf"
		}, "", "arn:k",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadCredential","Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws:secretsmanager:us-east-2:123456789012:secret:x-AbCdEf","arn:aws:secretsmanager:us-east-2:123456789012:secret:x-AbCdEf-??????"]},` +
				`{"Sid":"DecryptCredential","Effect":"Allow","Action":["kms:Decrypt"],"Resource":["arn:k"],"Condition":{"StringLike":{"kms:ViaService":"secretsmanager.us-east-2.amazonaws.com"}}}]}`},
		"ARN without its end": {func(c *bootstrap.Config) {
			c.Routes.Sources, c.Credential.Secret.ID = parse("subnet"), "arn:aws:secretsmanager:us-east-2:123456789012:secret:auth-key"
		}, "", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadCredential","Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws:secretsmanager:us-east-2:123456789012:secret:auth-key-??????"]}]}`},
		"ARN without its end, whose name looks complete": {func(c *bootstrap.Config) {
			c.Routes.Sources, c.Credential.Secret.ID = parse("subnet"), "arn:aws:secretsmanager:us-east-2:123456789012:secret:tailscale/subnet-router"
		}, "", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadCredential","Effect":"Allow","Action":["secretsmanager:GetSecretValue"],"Resource":["arn:aws:secretsmanager:us-east-2:123456789012:secret:tailscale/subnet-router","arn:aws:secretsmanager:us-east-2:123456789012:secret:tailscale/subnet-router-??????"]}]}`},
		"peerings": {func(c *bootstrap.Config) {
			c.Credential, c.Routes.Sources = literal("tskey-auth-x"), parse("peerings,pl-0123abcd")
		}, "us-gov-west-1", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadPrefixLists","Effect":"Allow","Action":["ec2:GetManagedPrefixListEntries"],"Resource":["*"]},` +
				`{"Sid":"ReadNetwork","Effect":"Allow","Action":["ec2:DescribeNetworkInterfaces","ec2:DescribeRouteTables","ec2:DescribeVpcPeeringConnections"],"Resource":["*"]}]}`},
		"databases": {func(c *bootstrap.Config) {
			c.Credential, c.Routes.Sources = literal("tskey-auth-x"), parse("lb:a=b,host:db.example.com,rds:a=b,rds:c=d")
		}, "eu-west-1", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"ReadProxyTags","Effect":"Allow","Action":["rds:ListTagsForResource"],"Resource":["arn:aws:rds:eu-west-1:*:db-proxy:*"]},` +
				`{"Sid":"ReadNetwork","Effect":"Allow","Action":["rds:DescribeDBClusters","rds:DescribeDBInstances","rds:DescribeDBProxies","rds:DescribeDBProxyEndpoints","elasticloadbalancing:DescribeLoadBalancers","elasticloadbalancing:DescribeTags"],"Resource":["*"]}]}`},
		"federation": {func(c *bootstrap.Config) {
			c.Credential.Secret.ID, c.Credential.ClientID, c.Credential.Audience, c.Routes.Sources = "", "k1", "api.tailscale.com/k1", parse("subnet")
		}, "", "",
			`{"Version":"2012-10-17","Statement":[` +
				`{"Sid":"VouchForRouter","Effect":"Allow","Action":["sts:GetWebIdentityToken"],"Resource":["*"],"Condition":{"ForAllValues:StringEquals":{"sts:IdentityTokenAudience":"api.tailscale.com/k1"},"NumericLessThanEquals":{"sts:DurationSeconds":"300"},"StringEquals":{"sts:SigningAlgorithm":"ES384"}}}]}`},
		"nothing": {func(c *bootstrap.Config) { c.Credential, c.Routes.Sources = literal("tskey-auth-x"), parse("subnet") }, "", "",
			`{"Version":"2012-10-17","Statement":[]}`},
	} {
		c := a.config("vpc")
		if test.change != nil {
			test.change(&c)
		}
		policy, err := bootstrap.New(c).Policy(t.Context(), test.region, test.key)
		got, _ := json.Marshal(policy)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", name, err, got, test.want)
		}
	}
	if calls := a.Calls(); len(calls) != 0 {
		t.Errorf("AWS was asked: %v", calls)
	}
}

// TestRegistrationNeedsTheService compares the calls that recognize the end of the service with
// the actions that a registration of split DNS needs.
func TestRegistrationNeedsTheService(t *testing.T) {
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	c := a.config("10.0.0.0/16")
	c.Credential, c.DNSRegister = literal("tskey-auth-x"), true
	b := bootstrap.New(c)
	if _, err := b.ScaledIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls, want := a.Calls(), bootstrap.Actions(c, false)
	slices.Sort(calls)
	slices.Sort(want)
	if !slices.Equal(calls, want) {
		t.Errorf("called  %v\nallowed %v", calls, want)
	}
	policy, err := b.Policy(t.Context(), "", "")
	if err != nil || len(policy.Statement) != 2 || policy.Statement[1].Resource[0] != "arn:aws:ecs:eu-west-1:123456789012:service/network/vpn" {
		t.Errorf("%+v, %v", policy, err)
	}
	if c.DNSRegister = false; len(bootstrap.Actions(c, false)) > 0 {
		t.Error("without a registration")
	}
}
