package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap"
)

// actions returns the EC2 actions that the configuration needs, as if metadata lacked the
// VPC. If metadata has it, permitted skips the action that is not needed.
func (e *exam) actions() []string {
	var rest []string
	for _, action := range bootstrap.Actions(e.Bootstrap, false) {
		if strings.HasPrefix(action, "ec2:") {
			rest = append(rest, action)
		}
	}
	return rest
}

func (e *exam) awsChecks() []Check {
	if len(bootstrap.Actions(e.Bootstrap, false)) == 0 {
		return []Check{{"AWS", "credentials", func(context.Context) Result {
			return skip("the configuration needs no AWS API")
		}}}
	}
	checks := []Check{{"AWS", "credentials", e.awsCredentials}}
	for _, action := range e.actions() {
		checks = append(checks, Check{"AWS", action, func(ctx context.Context) Result { return e.permitted(ctx, action) }})
	}
	return checks
}

const awsReach = "give the task's subnet a route to AWS (NAT gateway, public address or interface endpoint), and allow outbound TCP 443 in its security groups"

func (e *exam) awsCredentials(ctx context.Context) Result {
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	caller, region, err := boot.Caller(ctx)
	if err != nil {
		return failed(err, "give the task a task role (taskRoleArn)")
	}
	value := fmt.Sprintf("from %s, region %s", sourceName(caller.Source), region)
	if caller.Account != "" {
		value += ", account " + caller.Account
	}
	if !caller.Expires.IsZero() {
		value += ", renewed before " + caller.Expires.UTC().Format(time.RFC3339)
	}
	return pass(value)
}

// sourceName returns a readable name for a credential provider of the SDK.
func sourceName(s string) string {
	switch s {
	case "CredentialsEndpointProvider":
		return "the task role"
	case "EnvConfigCredentials":
		return "the environment (AWS_ACCESS_KEY_ID)"
	case "EC2RoleProvider":
		return "the EC2 instance's role, not the task role"
	}
	return s
}

func (e *exam) permitted(ctx context.Context, action string) Result {
	place, placeErr := e.place.Get(ctx)
	vpcKnown := placeErr == nil && place.VPCID != ""
	if vpcKnown && !contains(bootstrap.Actions(e.Bootstrap, true), action) {
		return skip("not needed: task metadata has the VPC")
	}
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	start := time.Now()
	err = boot.Permitted(ctx, action)
	switch {
	case errors.Is(err, awsapi.ErrNoDryRun):
		return skip("needed only for prefix lists in route tables; routes/found covers it if there are any")
	case err != nil:
		return failed(err, awsReach)
	}
	return pass(fmt.Sprintf("allowed (dry run, %v)", time.Since(start).Round(time.Millisecond)))
}

func contains(list []string, s string) bool {
	return slices.Contains(list, s)
}

// recordAWSDate records the skew of AWS's clock from the date of an answer that just came.
func (e *exam) recordAWSDate(date time.Time) {
	skew := date.Sub(e.Now())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.skew = &skew
}

func (e *exam) awsSkew() (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.skew == nil {
		return 0, false
	}
	return *e.skew, true
}
