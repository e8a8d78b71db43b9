// Package iam derives an IAM policy for the task role from the AWS actions that route and
// credential sources call.
//
// Each source declares its needs next to the code that makes the calls; policy, metrics and
// dry runs derive from that declaration.
package iam

import (
	"regexp"
	"slices"
	"strings"

	"subnetrouter/internal/awsapi"
)

// Need is an action that a source calls.
type Need struct {
	Action awsapi.Action
	// UnlessVPCKnown reports that the action is called only if task metadata lacks
	// the VPC, as on Fargate.
	UnlessVPCKnown bool
	// Try is the ID of the resource for a dry run; "" means none.
	Try string
	// Allow returns the statements that allow the action. It is nil for EC2's Describe
	// actions, which have no resource-level permissions and share one statement.
	Allow func(Scope) []Statement
}

// Actions lists the actions of needs, each once, in their order. vpcKnown reports
// that task metadata contains the VPC.
func Actions(needs []Need, vpcKnown bool) (list []awsapi.Action) {
	var names []string
	for _, n := range needs {
		// In the order of the first need, even if that one does not apply.
		counts := func(other Need) bool {
			return other.Action.Name == n.Action.Name && !(vpcKnown && other.UnlessVPCKnown)
		}
		if !slices.Contains(names, n.Action.Name) && slices.ContainsFunc(needs, counts) {
			names, list = append(names, n.Action.Name), append(list, n.Action)
		}
	}
	return list
}

// Policy is an IAM policy document.
type Policy struct {
	Version   string
	Statement []Statement

	// Notes are caveats about the policy, for people; they are not part of it.
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

// Allow returns a statement that allows an action on resources.
func Allow(sid, action string, resources ...string) Statement {
	return Statement{Sid: sid, Effect: "Allow", Action: []string{action}, Resource: resources}
}

// NewPolicy returns the policy that allows the needs, in their order, with the statement
// for actions without resource-level permissions last.
func NewPolicy(needs []Need, vpcKnown bool, s Scope) Policy {
	p := Policy{Version: "2012-10-17", Statement: []Statement{}}
	var describe []string
	for _, action := range Actions(needs, vpcKnown) {
		special := false
		for _, n := range needs {
			if n.Action.Name == action.Name && n.Allow != nil {
				special = true
				for _, statement := range n.Allow(s) {
					p.add(statement)
				}
			}
		}
		if !special {
			describe = append(describe, action.Name)
		}
	}
	if len(describe) > 0 {
		p.Statement = append(p.Statement, Statement{Sid: "ReadNetwork", Effect: "Allow", Action: describe, Resource: []string{"*"}})
	}
	if s.guessed && p.names("arn:"+s.Partition+":") {
		p.Notes = append(p.Notes, "the partition is assumed to be "+s.Partition+", as task metadata, ROUTER_AUTH_SECRET and AWS_REGION do not name it: set AWS_REGION")
	}
	return p
}

// add appends a statement, or its resources to the one with the same Sid.
func (p *Policy) add(s Statement) {
	i := slices.IndexFunc(p.Statement, func(o Statement) bool { return o.Sid == s.Sid })
	if i < 0 {
		p.Statement = append(p.Statement, s)
		return
	}
	all := &p.Statement[i].Resource
	for _, r := range s.Resource {
		if !slices.Contains(*all, r) {
			*all = append(*all, r)
		}
	}
	if slices.Contains(*all, "*") {
		*all = []string{"*"}
	}
}

// names reports whether a resource of the policy has the prefix.
func (p *Policy) names(prefix string) bool {
	return slices.ContainsFunc(p.Statement, func(s Statement) bool {
		return slices.ContainsFunc(s.Resource, func(r string) bool { return strings.HasPrefix(r, prefix) })
	})
}

// Scope holds the parts that complete an ARN. An unknown field is "", except the partition.
type Scope struct {
	Partition, Region, Account string
	// Cluster and ServiceName are names of ECS.
	Cluster, ServiceName string
	// KMSKey is the ARN of the customer managed key that encrypts the stored credential;
	// "" means the AWS managed key, which needs no permission.
	KMSKey string

	guessed bool // Partition is an assumption
}

// NewScope returns the scope of a task. The partition is that of the task's ARN, else of the
// credential's ARN, else of the region according to the SDK. stored is the ARN or name of the
// stored credential; "" means none.
func NewScope(region, taskARN, stored string) Scope {
	s := Scope{Region: region}
	task, inTask := awsapi.ParseARN(taskARN)
	secret, byARN := awsapi.ParseARN(stored)
	s.Account = task.Account
	if rest, ok := strings.CutPrefix(task.Resource, "task/"); ok { // older ARNs lack the cluster
		if cluster, _, ok := strings.Cut(rest, "/"); ok {
			s.Cluster = cluster
		}
	}
	switch {
	case inTask:
		s.Partition = task.Partition
	case byARN:
		s.Partition = secret.Partition
	case region != "":
		s.Partition = awsapi.Partition(region)
	default:
		s.Partition, s.guessed = awsapi.DefaultPartition, true
	}
	return s
}

// completeSecret matches the end of a complete ARN: Secrets Manager appends a hyphen and six
// characters to the name.
var completeSecret = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

// Secret returns the ARNs that a secret may have. An ARN that looks complete may still be
// incomplete, as the name itself may end in a hyphen and six characters.
func (s Scope) Secret(ref awsapi.SecretRef) []string {
	id := ref.ID
	if _, ok := awsapi.ParseARN(id); !ok {
		id = s.ARN("secretsmanager", s.Account, "secret:"+id)
	} else if completeSecret.MatchString(id) {
		return []string{id, id + "-??????"}
	}
	return []string{id + "-??????"}
}

// Decrypt allows decryption of a stored credential, given by its ARN or name, if a KMS key is
// known. The condition restricts the use of the key to calls by the service ("ssm") that stores
// the credential.
func (s Scope) Decrypt(service, stored string) []Statement {
	if s.KMSKey == "" {
		return nil
	}
	region := s.Region
	if arn, ok := awsapi.ParseARN(stored); ok {
		region = arn.Region
	}
	decrypt := Allow("DecryptCredential", awsapi.Decrypt.Name, s.KMSKey)
	decrypt.Condition = map[string]map[string]string{"StringLike": {"kms:ViaService": awsapi.ServiceHost(service, s.Partition, region)}}
	return []Statement{decrypt}
}

// Task returns the ARN of all tasks of the task's cluster.
func (s Scope) Task() string { return s.ARN("ecs", s.Account, "task/"+orAny(s.Cluster)+"/*") }

// Service returns the ARN of the task's service.
func (s Scope) Service() string {
	return s.ARN("ecs", s.Account, "service/"+orAny(s.Cluster)+"/"+orAny(s.ServiceName))
}

// SeeService returns the needs of a task that finds out which tasks of its service run, and how
// many there are to be.
func SeeService() []Need {
	return []Need{
		{Action: awsapi.DescribeTasks, Allow: func(s Scope) []Statement {
			return []Statement{Allow("SeeTasks", awsapi.DescribeTasks.Name, s.Task())}
		}},
		{Action: awsapi.DescribeServices, Allow: func(s Scope) []Statement {
			return []Statement{Allow("SeeService", awsapi.DescribeServices.Name, s.Service())}
		}},
	}
}

// ARN returns the ARN of a resource in the scope's region; an unknown part is "*".
func (s Scope) ARN(service, account, resource string) string {
	return awsapi.ARN{Partition: s.Partition, Service: service, Region: orAny(s.Region), Account: orAny(account), Resource: resource}.String()
}

func orAny(s string) string {
	if s == "" {
		return "*"
	}
	return s
}
