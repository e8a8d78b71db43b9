package awstest

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"strings"
	"time"
)

var iamRules = []Rule{
	{
		Name:     "role: not known to ECS at once",
		Sentence: "A change made in IAM takes time to become visible at every endpoint, so a role that was just created may be missing for ECS's check of iam:PassRole.",
		Source:   "https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency, https://github.com/terraform-aws-modules/terraform-aws-ecs/issues/414",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ecs", "RegisterTaskDefinition") {
				return nil
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, argument := range []string{"executionRoleArn", "taskRoleArn"} {
				if role := c.in.text(argument); s.iam.pending(role) {
					return refuse("AccessDeniedException", "User: arn:aws:iam::123456789012:user/terraform is not authorized to perform: iam:PassRole on resource: %s", role)
				}
			}
			return nil
		},
		after: func(s *Strict, c *call) {
			if c.is("iam", "CreateRole") {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.iam.create(c.form.Get("RoleName"))
			}
		},
	},
	{
		Name:     "role: trusts ECS for tasks of the account and region",
		Sentence: "ECS starts a task only if it can assume the task's roles: their trust policy names ecs-tasks.amazonaws.com, and its conditions on aws:SourceAccount and aws:SourceArn, if any, match the account and the region.",
		Source:   "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ecs", "CreateService", "UpdateService") || c.in.text("taskDefinition") == "" {
				return nil
			}
			var out fields
			if s.ask(c, "ecs", "AmazonEC2ContainerServiceV20141113.DescribeTaskDefinition", nil, fields{"taskDefinition": c.in.text("taskDefinition")}, &out) != nil {
				return nil
			}
			cluster := strings.Split(c.in.text("cluster"), ":")
			if len(cluster) < 6 {
				return nil
			}
			source := strings.Join(cluster[:5], ":") + ":task/"
			for _, argument := range []string{"executionRoleArn", "taskRoleArn"} {
				if arn := out.object("taskDefinition").text(argument); arn != "" && !s.trusts(c, arn, cluster[4], source) {
					name := map[string]string{"CreateService": "serviceName", "UpdateService": "service"}[c.action]
					s.mu.Lock()
					s.service(serviceKey(c.in, name)).failing = true // ECS accepts the service, and no task starts
					s.mu.Unlock()
				}
			}
			return nil
		},
	},
}

// trusts reports whether ECS can assume a role for a task: account and source are the
// values of aws:SourceAccount and, without the task's ID, of aws:SourceArn.
func (s *Strict) trusts(c *call, arn, account, source string) bool {
	var answer string
	form := url.Values{"Action": {"GetRole"}, "Version": {"2010-05-08"}, "RoleName": {arn[strings.LastIndex(arn, "/")+1:]}}
	if s.ask(c, "iam", "", form, nil, &answer) != nil {
		return false
	}
	var role struct {
		Policy string `xml:"GetRoleResult>Role>AssumeRolePolicyDocument"`
	}
	if xml.Unmarshal([]byte(answer), &role) != nil {
		return false
	}
	text, err := url.QueryUnescape(role.Policy)
	if err != nil {
		return false
	}
	var policy fields
	if decode([]byte(text), &policy) != nil {
		return false
	}
	for _, statement := range policy.objects("Statement") {
		if statement.text("Effect") != "Allow" || statement.object("Principal").text("Service") != "ecs-tasks.amazonaws.com" {
			continue
		}
		conditions := statement.object("Condition")
		wantAccount := conditions.object("StringEquals").text("aws:SourceAccount")
		wantSource, _ := strings.CutSuffix(conditions.object("ArnLike").text("aws:SourceArn"), "*")
		if (wantAccount == "" || wantAccount == account) && strings.HasPrefix(source, wantSource) {
			return true
		}
	}
	return false
}

// iamDelay is the time that a new role takes to become known to ECS. The peer's issue
// reports several seconds.
const iamDelay = 5 * time.Second

// propagation holds the roles that ECS does not know yet. Its clock advances only by
// requests to sleepPath, so that tests depend on no real time.
type propagation struct {
	now     time.Duration
	settled bool
	created map[string]time.Duration // by name
}

func (p *propagation) create(role string) {
	if p.created == nil {
		p.created = map[string]time.Duration{}
	}
	p.created[role] = p.now
}

// pending reports whether ECS does not know the role yet.
func (p *propagation) pending(arn string) bool {
	created, ok := p.created[arn[strings.LastIndex(arn, "/")+1:]]
	return ok && !p.settled && p.now < created+iamDelay
}

// sleepPath is the path of requests that advance the clock of IAM: their parameter "for" is
// a duration.
const sleepPath = "/sleep"

// SleepURL returns the address, without a value of its last parameter, of requests that
// advance the clock of IAM by that duration.
func (s *Strict) SleepURL() string { return s.url + sleepPath + "?for=" }

func (s *Strict) sleep(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil || d < 0 {
		http.Error(w, "for is not a duration", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.iam.now += d
}

// SettleRoles makes ECS know every role at once, for modules that do not wait.
func (s *Strict) SettleRoles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.iam.settled = true
}
