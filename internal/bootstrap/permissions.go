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

	// Notes are what to know about the policy, which is no part of it.
	Notes []string `json:"-"`
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
	s := newScope(region, task.ARN, b.config.SecretID)
	policy := Policy{Version: "2012-10-17", Statement: []Statement{}}
	var describe []string
	for _, action := range Actions(b.config, task.VPCID != "") {
		switch action {
		case "secretsmanager:GetSecretValue":
			policy.allow("ReadCredential", []string{action}, s.secret(b.config.SecretID)...)
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
	if s.guessed && policy.names("arn:"+s.partition+":") {
		policy.Notes = append(policy.Notes, "the partition is taken for "+s.partition+", as neither task metadata nor an ARN in ROUTER_AUTH_SECRET nor AWS_REGION has it: set AWS_REGION")
	}
	return policy, nil
}

func (p *Policy) allow(sid string, actions []string, resources ...string) {
	p.Statement = append(p.Statement, Statement{Sid: sid, Effect: "Allow", Action: actions, Resource: resources})
}

// names reports whether a resource of the policy begins so.
func (p *Policy) names(prefix string) bool {
	return slices.ContainsFunc(p.Statement, func(s Statement) bool {
		return slices.ContainsFunc(s.Resource, func(r string) bool { return strings.HasPrefix(r, prefix) })
	})
}

// scope fills ARNs in. An unknown field is "", except the partition.
type scope struct {
	partition, region, account string
	guessed                    bool // the partition
}

// newScope takes the partition that the task's own ARN carries, else the one of
// the secret's, else the one in which the SDK has the region.
func newScope(region, taskARN, secretID string) scope {
	s := scope{region: region}
	task, inTask := awsapi.ParseARN(taskARN)
	secret, byARN := awsapi.ParseARN(secretID)
	s.account = task.Account
	switch {
	case inTask:
		s.partition = task.Partition
	case byARN:
		s.partition = secret.Partition
	case region != "":
		s.partition = awsapi.Partition(region)
	default:
		s.partition, s.guessed = awsapi.DefaultPartition, true
	}
	return s
}

// Secrets Manager adds a hyphen and six characters to the name in a secret's ARN.
var completeSecret = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

// secret returns the resources that a secret may be. An ARN that ends as a
// complete one may also lack its end: the name may have six letters after a hyphen.
func (s scope) secret(id string) []string {
	if _, ok := awsapi.ParseARN(id); !ok {
		id = awsapi.ARN{Partition: s.partition, Service: "secretsmanager", Region: orAny(s.region), Account: orAny(s.account), Resource: "secret:" + id}.String()
	} else if completeSecret.MatchString(id) {
		return []string{id, id + "-??????"}
	}
	return []string{id + "-??????"}
}

// viaSecretsManager keeps the role from using the key for anything else.
func (s scope) viaSecretsManager(id string) map[string]map[string]string {
	if arn, ok := awsapi.ParseARN(id); ok {
		s.region = arn.Region
	}
	return map[string]map[string]string{"StringLike": {"kms:ViaService": awsapi.SecretsManager(s.partition, s.region)}}
}

// prefixLists are those named; a route table may refer to any. A list of AWS
// has the account "aws", a shared one its owner's.
func (s scope) prefixLists(c Config) (list []string) {
	if c.uses(routes.Peerings) {
		return []string{"*"}
	}
	for _, source := range c.Sources {
		if source.Kind == routes.PrefixList {
			list = append(list, awsapi.ARN{Partition: s.partition, Service: "ec2", Region: orAny(s.region), Account: "*", Resource: "prefix-list/" + source.ID}.String())
		}
	}
	return list
}

func orAny(s string) string {
	if s == "" {
		return "*"
	}
	return s
}
