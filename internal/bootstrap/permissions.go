package bootstrap

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/ecsmeta"
	"subnetrouter/internal/routes"
)

// permissions is which configuration makes which AWS calls. The policy, the
// metrics and the tests at the wire all read it.
var permissions = []struct {
	action string
	needed func(c Config, vpcKnown bool) bool
}{
	{"secretsmanager:GetSecretValue", func(c Config, _ bool) bool { return c.AuthKey == "" && c.SecretID != "" }},
	{"sts:GetWebIdentityToken", func(c Config, _ bool) bool { return c.AuthKey == "" && c.SecretID == "" && c.ClientID != "" }},
	{"ec2:DescribeNetworkInterfaces", func(c Config, vpcKnown bool) bool {
		// Metadata tells the VPC on EC2, the subnet's ID nowhere.
		return c.uses(routes.Peerings) || !vpcKnown && c.uses(routes.VPC, routes.SubnetsByTag)
	}},
	{"ec2:DescribeVpcs", func(c Config, _ bool) bool { return c.uses(routes.VPC) }},
	{"ec2:DescribeSubnets", func(c Config, _ bool) bool { return c.uses(routes.SubnetsByTag) }},
	{"ec2:DescribeRouteTables", func(c Config, _ bool) bool { return c.uses(routes.Peerings) }},
	{"ec2:DescribeVpcPeeringConnections", func(c Config, _ bool) bool { return c.uses(routes.Peerings) }},
	{"ec2:GetManagedPrefixListEntries", func(c Config, _ bool) bool { return c.uses(routes.PrefixList, routes.Peerings) }},
}

func (c Config) uses(kinds ...routes.Kind) bool {
	return slices.ContainsFunc(c.Sources, func(s routes.Source) bool { return slices.Contains(kinds, s.Kind) })
}

// Actions lists the AWS actions that a router of this configuration may call,
// as IAM spells them. vpcKnown says that task metadata gives the VPC, as on
// EC2; without it there is one more.
func Actions(c Config, vpcKnown bool) []string {
	var list []string
	for _, p := range permissions {
		if p.needed(c, vpcKnown) {
			list = append(list, p.action)
		}
	}
	return list
}

// Policy is an IAM policy document.
type Policy struct {
	Version   string
	Statement []Statement
}

// Statement allows actions on resources.
type Statement struct {
	Sid       string
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string]string `json:",omitempty"`
}

// Policy returns what the task role needs, from configuration and, where there
// is any, task metadata; AWS is not asked. What neither tells, as a name's
// account, is "*". kmsKey is the ARN of the customer managed key that encrypts
// the secret; "" is none, as the AWS managed one needs no permission.
func (b *Bootstrap) Policy(ctx context.Context, region, kmsKey string) (Policy, error) {
	var task ecsmeta.Task // not Place, which also knows what EC2 said
	if b.config.MetadataURI != "" {
		var err error
		if task, err = b.readTask(ctx); err != nil {
			return Policy{}, err
		}
	}
	if region == "" {
		region = task.Region
	}
	s := scope{region: region}
	if part := strings.Split(task.ARN, ":"); len(part) > 4 {
		s.account = part[4]
	}
	policy := Policy{Version: "2012-10-17", Statement: []Statement{}}
	var describe []string
	for _, action := range Actions(b.config, task.VPCID != "") {
		switch action {
		case "secretsmanager:GetSecretValue":
			policy.allow("ReadCredential", []string{action}, s.secret(b.config.SecretID))
			if kmsKey != "" {
				policy.allow("DecryptCredential", []string{"kms:Decrypt"}, kmsKey)
				policy.Statement[len(policy.Statement)-1].Condition = s.viaSecretsManager(b.config.SecretID)
			}
		case "sts:GetWebIdentityToken": // which knows no resources; the audience says whom it is for
			policy.allow("VouchForRouter", []string{action}, "*")
			policy.Statement[len(policy.Statement)-1].Condition = map[string]map[string]string{
				"ForAllValues:StringEquals": {"sts:IdentityTokenAudience": b.config.Audience},
				"StringEquals":              {"sts:SigningAlgorithm": "ES384"},
				"NumericLessThanEquals":     {"sts:DurationSeconds": strconv.Itoa(int(awsapi.IdentityLife.Seconds()))},
			}
		case "ec2:GetManagedPrefixListEntries":
			policy.allow("ReadPrefixLists", []string{action}, s.prefixLists(b.config)...)
		default:
			describe = append(describe, action)
		}
	}
	if len(describe) > 0 { // EC2's Describe actions know no resources
		policy.allow("ReadNetwork", describe, "*")
	}
	return policy, nil
}

func (p *Policy) allow(sid string, actions []string, resources ...string) {
	p.Statement = append(p.Statement, Statement{Sid: sid, Effect: "Allow", Action: actions, Resource: resources})
}

// scope fills ARNs in; what is unknown is "".
type scope struct{ region, account string }

// A secret's ARN ends with six characters that Secrets Manager adds to its name.
var completeSecret = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

func (s scope) secret(id string) string {
	arn := id
	if !strings.HasPrefix(id, "arn:") {
		arn = strings.Join([]string{"arn", s.partition(), "secretsmanager", orAny(s.region), orAny(s.account), "secret", id}, ":")
	} else if completeSecret.MatchString(id) {
		return arn
	}
	return arn + "-??????"
}

// viaSecretsManager keeps the role from using the key for anything else.
func (s scope) viaSecretsManager(id string) map[string]map[string]string {
	if part := strings.Split(id, ":"); len(part) > 3 {
		s.region = part[3]
	}
	domain := "amazonaws.com"
	if s.partition() == "aws-cn" {
		domain = "amazonaws.com.cn"
	}
	return map[string]map[string]string{
		"StringLike": {"kms:ViaService": "secretsmanager." + orAny(s.region) + "." + domain},
	}
}

// prefixLists are those named; a route table may refer to any. A list of AWS
// has the account "aws", a shared one its owner's.
func (s scope) prefixLists(c Config) (list []string) {
	if c.uses(routes.Peerings) {
		return []string{"*"}
	}
	for _, source := range c.Sources {
		if source.Kind == routes.PrefixList {
			list = append(list, strings.Join([]string{"arn", s.partition(), "ec2", orAny(s.region), "*", "prefix-list/" + source.ID}, ":"))
		}
	}
	return list
}

func (s scope) partition() string {
	switch {
	case strings.HasPrefix(s.region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(s.region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

func orAny(s string) string {
	if s == "" {
		return "*"
	}
	return s
}
