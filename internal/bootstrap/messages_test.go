package bootstrap_test

import (
	"net/netip"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/problem"
)

// The whole texts of start-up failures, produced by the real SDK over HTTP. {metadata}
// stands for the endpoint's address.

const who = "User: arn:aws:sts::123456789012:assumed-role/router/6f1d0c5b is not authorized to perform: "

func TestCredentialMessages(t *testing.T) {
	const store = `; store an auth key (tskey-auth-…), or JSON such as {"auth_key": "tskey-auth-…"}`
	secret := func(value string) func(*aws) {
		return func(a *aws) {
			a.Server.Update(func(w *awstest.World) { w.Secrets = map[string]awstest.Secret{"router/key": {Value: value}} })
		}
	}
	fail := func(f awstest.Failure) func(*aws) {
		return func(a *aws) { a.Server.Fail("secretsmanager:GetSecretValue", f) }
	}
	const arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:router/key-YFMRaz"
	for name, test := range map[string]struct {
		arrange func(*aws)
		want    string
	}{
		"missing secret": {func(a *aws) { a.Server.Update(func(w *awstest.World) { w.Secrets = nil }) },
			`reading ROUTER_AUTH_SECRET: calling secretsmanager:GetSecretValue for secret "router/key": ResourceNotFoundException: Secrets Manager can't find the specified secret; create or restore the secret in eu-west-1, or correct its name, version stage or version id`},
		"denied secret": {fail(awstest.Denied("secretsmanager:GetSecretValue", arn)),
			`reading ROUTER_AUTH_SECRET: calling secretsmanager:GetSecretValue for secret "router/key": AccessDeniedException: ` + who + `secretsmanager:GetSecretValue on resource: ` + arn + ` because no identity-based policy allows the secretsmanager:GetSecretValue action; allow secretsmanager:GetSecretValue on router/key in the task role's policy`},
		"denied KMS key": {fail(awstest.KMSDenied()),
			`reading ROUTER_AUTH_SECRET: calling secretsmanager:GetSecretValue for secret "router/key": AccessDeniedException: Access to KMS is not allowed; allow kms:Decrypt on the secret's KMS key in the task role's policy and in the key's own policy`},
		"secret without a value": {secret(""),
			`reading ROUTER_AUTH_SECRET: calling secretsmanager:GetSecretValue for secret "router/key": ResourceNotFoundException: Secrets Manager can't find the specified secret value for staging label: AWSCURRENT; create or restore the secret in eu-west-1, or correct its name, version stage or version id`},
		"empty secret": {secret(" \n"),
			`using the secret "router/key" of ROUTER_AUTH_SECRET: it is empty; store an auth key (tskey-auth-…)`},
		"malformed JSON": {secret(`{"auth_key": "` + key + `",}`),
			`using the secret "router/key" of ROUTER_AUTH_SECRET: it starts with { but is not valid JSON` + store},
		"JSON without a known key": {secret(`{"user":"x","tailscale":"` + key + `"}`),
			`using the secret "router/key" of ROUTER_AUTH_SECRET: its JSON has none of the keys auth_key, authkey, TS_AUTHKEY (it has "tailscale", "user"); rename the key or name it in ROUTER_AUTH_SECRET_KEY`},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, fargate())
			test.arrange(a)
			got, source, err := bootstrap.New(a.config("vpc")).Credential(t.Context())
			expect(t, a, err, test.want)
			if got != "" || source != "" {
				t.Errorf("a credential from %q besides the error", source)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		_, _, err := bootstrap.New(bootstrap.Config{}).Credential(t.Context())
		expect(t, nil, err, "finding a credential: none is named; set ROUTER_AUTH_SECRET to a Secrets Manager name or ARN or the ARN of an SSM parameter, TS_AUTHKEY to an auth key, or TS_CLIENT_ID and TS_AUDIENCE")
	})
}

func bridged() awstest.Task {
	t := ec2()
	t.NetworkMode = "bridge"
	return t
}

func TestRouteMessages(t *testing.T) {
	const (
		onECS    = "; ECS sets this variable in every task (Fargate platform 1.4.0, EC2 agent 1.39.0 or later); elsewhere unset it and set ROUTER_ROUTES to CIDRs"
		networks = "; run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs"
		lookUp   = "looking up source vpc of ROUTER_ROUTES: "
	)
	for name, test := range map[string]struct {
		task    awstest.Task
		sources string
		arrange func(*aws)
		want    string
	}{
		"unreachable metadata": {fargate(), "vpc", func(a *aws) { a.Metadata.Close() },
			lookUp + "reading task metadata from ECS_CONTAINER_METADATA_URI_V4={metadata}: dial tcp {host}: connect: connection refused" + onECS},
		"failing metadata": {fargate(), "subnet", func(a *aws) { a.Metadata.Fail("/task", awstest.Failure{Status: 500}) },
			"looking up source subnet of ROUTER_ROUTES: reading task metadata from ECS_CONTAINER_METADATA_URI_V4={metadata}/task: HTTP status 500 Internal Server Error" + onECS},
		"metadata without networks": {fargate(), "vpc", func(a *aws) { a.Metadata.Update(func(t *awstest.Task) { t.NetworkMode = "none" }) },
			lookUp + "reading task metadata from ECS_CONTAINER_METADATA_URI_V4={metadata}: the answer has no Networks" + networks},
		"bridge mode of an old agent": {awstest.Task{LaunchType: "EC2", NetworkMode: "bridge"}, "vpc", nil,
			lookUp + `task metadata gives neither VPCID nor MACAddress in network mode "bridge"; run the task with network mode awsvpc, update the ECS agent to 1.63.1 or later, or set ROUTER_ROUTES to CIDRs`},
		"subnet in bridge mode": {awstest.Task{LaunchType: "EC2", NetworkMode: "bridge"}, "subnet", nil,
			`looking up source subnet of ROUTER_ROUTES: task metadata gives no subnet in network mode "bridge"` + networks},
		"EC2 denied, interface": {fargate(), "vpc", func(a *aws) {
			a.Server.Fail("ec2:DescribeNetworkInterfaces", awstest.Denied("ec2:DescribeNetworkInterfaces", "*"))
		},
			lookUp + `calling ec2:DescribeNetworkInterfaces for the interface with MAC address 06:8f:2a:13:5c:e1: UnauthorizedOperation: ` + who + `ec2:DescribeNetworkInterfaces because no identity-based policy allows the ec2:DescribeNetworkInterfaces action; allow ec2:DescribeNetworkInterfaces on "*" in the task role's policy`},
		"EC2 denied, VPC": {ec2(), "vpc", func(a *aws) { a.Server.Fail("ec2:DescribeVpcs", awstest.Denied("ec2:DescribeVpcs", "*")) },
			lookUp + `calling ec2:DescribeVpcs for VPC vpc-0aaa: UnauthorizedOperation: ` + who + `ec2:DescribeVpcs because no identity-based policy allows the ec2:DescribeVpcs action; allow ec2:DescribeVpcs on "*" in the task role's policy`},
		"interface that has gone": {fargate(), "vpc", func(a *aws) { a.Server.Update(func(w *awstest.World) { w.Interfaces = nil }) },
			lookUp + "calling ec2:DescribeNetworkInterfaces for the interface with MAC address 06:8f:2a:13:5c:e1: there is none in eu-west-1; check that AWS_REGION and the credentials are the task's own"},
		"VPC that has gone": {fargate(), "vpc", func(a *aws) { a.Server.Update(func(w *awstest.World) { w.VPCs = nil }) },
			lookUp + "calling ec2:DescribeVpcs for VPC vpc-0aaa: InvalidVpcID.NotFound: The vpc ID 'vpc-0aaa' does not exist; check that the VPC still exists and that AWS_REGION and the credentials are the task's own"},
		"VPC without CIDRs": {fargate(), "vpc", func(a *aws) {
			a.Server.Update(func(w *awstest.World) { w.VPCs = []awstest.VPC{{ID: "vpc-0aaa"}} })
		},
			lookUp + "calling ec2:DescribeVpcs for VPC vpc-0aaa: the answer has no CIDR in state associated; wait until one is associated, or set ROUTER_ROUTES to CIDRs"},
		"no subnet with the tag": {fargate(), "subnets:tier=private", nil,
			"looking up source subnets:tier=private of ROUTER_ROUTES: calling ec2:DescribeSubnets for the subnets of VPC vpc-0aaa with tag tier=private: there is none; correct the tag in ROUTER_ROUTES, or tag the subnets"},
		"peerings in bridge mode": {bridged(), "peerings", nil,
			`looking up source peerings of ROUTER_ROUTES: task metadata gives no MACAddress in network mode "bridge", and thereby no subnet` + networks},
		"no peering": {fargate(), "peerings", func(a *aws) {
			a.Server.Update(func(w *awstest.World) {
				w.RouteTables = []awstest.RouteTable{{ID: "rtb-1", VPCID: "vpc-0aaa", Main: true, Routes: []awstest.Route{{Prefix: prefix("10.20.0.0/16"), Target: "local"}}}}
			})
		}, "choosing routes: the sources of ROUTER_ROUTES lead to none; add one, such as vpc"},
		"empty prefix list": {fargate(), "pl-0123abcd", func(a *aws) {
			a.Server.Update(func(w *awstest.World) { w.PrefixLists = []awstest.PrefixList{{ID: "pl-0123abcd"}} })
		}, "looking up source pl-0123abcd of ROUTER_ROUTES: the prefix list has no entry; add one, or take the list out of ROUTER_ROUTES"},
		"nothing left": {fargate(), "169.254.0.0/16,10.0.0.0/8", nil,
			"choosing routes: none is left: 169.254.0.0/16 from ROUTER_ROUTES (link-local, where ECS and EC2 serve credentials and metadata), 10.0.0.0/8 from ROUTER_ROUTES (excluded by ROUTER_EXCLUDE_ROUTES); add a source to ROUTER_ROUTES or take a prefix out of ROUTER_EXCLUDE_ROUTES"},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, test.task)
			if test.arrange != nil {
				test.arrange(a)
			}
			c := a.config(test.sources)
			if name == "nothing left" {
				c.Routes.Exclude = []netip.Prefix{prefix("10.0.0.0/8")}
			}
			got, err := bootstrap.New(c).Routes(t.Context())
			expect(t, a, err, test.want)
			if len(got.Advertise) != 0 {
				t.Errorf("advertise %v besides the error", got.Advertise)
			}
		})
	}
	t.Run("no source", func(t *testing.T) {
		_, err := bootstrap.New(bootstrap.Config{}).Routes(t.Context())
		expect(t, nil, err, "choosing routes: ROUTER_ROUTES names no source; set it to vpc, subnet or CIDRs")
	})
	t.Run("outside ECS", func(t *testing.T) {
		_, err := bootstrap.New(bootstrap.Config{Routes: routed("vpc")}).Routes(t.Context())
		expect(t, nil, err, lookUp+"reading task metadata: ECS_CONTAINER_METADATA_URI_V4 is not set; ECS sets it in every task, elsewhere set ROUTER_ROUTES to CIDRs")
	})
}

// expect compares an error's text, which must not hold the secret either, and expects its fix
// apart from its message.
func expect(t *testing.T, a *aws, err error, want string) {
	t.Helper()
	if a != nil {
		host, _, _ := strings.Cut(strings.TrimPrefix(a.URI(), "http://"), "/")
		want = strings.NewReplacer("{metadata}", a.URI(), "{host}", host).Replace(want)
		if strings.Contains(a.log.String(), "S3CR3T") {
			t.Errorf("the log contains the secret: %s", a.log.String())
		}
	}
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if p := problem.Of(err); err != nil && (p.Fix != "") != strings.Contains(want, "; ") {
		t.Errorf("the fix %q is not apart from the message %q", p.Fix, p.Message)
	}
	if err != nil && strings.Contains(err.Error(), "S3CR3T") {
		t.Error("the error contains the secret")
	}
}
