package awsapi

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"subnetrouter/internal/secret"
)

// TaskState is the state of an ECS task. ECS describes a stopped task for about an hour.
type TaskState struct {
	LastStatus    string // "PROVISIONING", "PENDING", "RUNNING", "STOPPING", "STOPPED", ...
	DesiredStatus string // "RUNNING" or "STOPPED"
	StopCode      string // "ServiceSchedulerInitiated", "EssentialContainerExited", ...; "" unless stopping
	StoppedReason string
	StartedBy     string // the ID of the deployment, for a task of a service
}

// DescribeTasks and DescribeServices are the actions that [Client.Tasks] and
// [Client.Service] need.
var (
	DescribeTasks    = Action{Name: "ecs:DescribeTasks"}
	DescribeServices = Action{Name: "ecs:DescribeServices"}
)

// maxTasks is the most tasks that ECS describes in one call.
const maxTasks = 100

// missingReason is ECS's reason for a task or service that it does not know.
const missingReason = "MISSING"

// Tasks returns the states of tasks by ARN. A task that ECS does not know, or no longer, is
// absent. cluster is a name or an ARN, whose region wins over the client's.
func (c *Client) Tasks(ctx context.Context, cluster string, arns []string) (map[string]TaskState, error) {
	req, options := c.cluster(DescribeTasks, cluster)
	req.resource = fmt.Sprintf("tasks of cluster %q", cluster)
	req.allow = fmt.Sprintf("allow ecs:DescribeTasks on the tasks of cluster %s in the task role's policy", cluster)
	states := map[string]TaskState{}
	for batch := range slices.Chunk(arns, maxTasks) {
		var out *ecs.DescribeTasksOutput
		err := c.call(ctx, req, func(ctx context.Context) (err error) {
			out, err = c.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: &cluster, Tasks: batch}, options)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, f := range out.Failures {
			if reason := aws.ToString(f.Reason); reason != missingReason {
				return nil, req.fail("", "", fmt.Sprintf("ECS does not describe %s: %s", secret.Clean(aws.ToString(f.Arn), maxMessage), failureText(reason, aws.ToString(f.Detail))), "")
			}
		}
		for _, t := range out.Tasks {
			if arn := aws.ToString(t.TaskArn); slices.Contains(batch, arn) {
				states[arn] = TaskState{
					LastStatus: aws.ToString(t.LastStatus), DesiredStatus: aws.ToString(t.DesiredStatus),
					StopCode: string(t.StopCode), StoppedReason: secret.Clean(aws.ToString(t.StoppedReason), maxMessage),
					StartedBy: aws.ToString(t.StartedBy),
				}
			}
		}
	}
	return states, nil
}

// ServiceState is the state of an ECS service.
type ServiceState struct {
	Desired, Running, Pending int // tasks
	Deployments               []Deployment
	// MaximumPercent bounds the tasks during a deployment, in percent of Desired.
	MaximumPercent int
}

// Deployment is a deployment of a service.
type Deployment struct {
	ID           string // "ecs-svc/1234567890123456789"
	Status       string // "PRIMARY" (the latest), "ACTIVE" (being replaced) or "INACTIVE"
	RolloutState string // "IN_PROGRESS", "COMPLETED", "FAILED"; "" if ECS reports none
}

// defaultMaximumPercent is ECS's value for a service that sets none.
const defaultMaximumPercent = 200

// Service returns the state of a service, given by name or ARN. cluster is a name or an
// ARN, whose region wins over the client's.
func (c *Client) Service(ctx context.Context, cluster, name string) (ServiceState, error) {
	req, options := c.cluster(DescribeServices, cluster)
	req.resource = fmt.Sprintf("service %q of cluster %q", name, cluster)
	req.allow = fmt.Sprintf("allow ecs:DescribeServices on the service %s of cluster %s in the task role's policy", name, cluster)
	req.find = fmt.Sprintf("check that the service exists in cluster %s in %s", cluster, req.region)
	var out *ecs.DescribeServicesOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ecs.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: &cluster, Services: []string{name}}, options)
		return err
	})
	if err != nil {
		return ServiceState{}, err
	}
	if len(out.Failures) > 0 {
		f := out.Failures[0]
		reason, fix := aws.ToString(f.Reason), ""
		if reason == missingReason {
			fix = req.find
		}
		return ServiceState{}, req.fail("", "", failureText(reason, aws.ToString(f.Detail)), fix)
	}
	if len(out.Services) != 1 || aws.ToString(out.Services[0].Status) == "INACTIVE" {
		return ServiceState{}, req.fail("", "", "there is none in "+req.region, req.find)
	}
	s := out.Services[0]
	state := ServiceState{
		Desired: int(s.DesiredCount), Running: int(s.RunningCount), Pending: int(s.PendingCount),
		MaximumPercent: defaultMaximumPercent,
	}
	if d := s.DeploymentConfiguration; d != nil && d.MaximumPercent != nil {
		state.MaximumPercent = int(*d.MaximumPercent)
	}
	for _, d := range s.Deployments {
		state.Deployments = append(state.Deployments, Deployment{aws.ToString(d.Id), aws.ToString(d.Status), string(d.RolloutState)})
	}
	return state, nil
}

// cluster returns a request about a cluster, and the option that selects its region.
func (c *Client) cluster(a Action, cluster string) (request, func(*ecs.Options)) {
	region := c.regionOf(cluster)
	return request{
		op:         a.Name,
		region:     region,
		callerCode: true,
		find:       fmt.Sprintf("check that the cluster %s exists in %s and that the credentials are the task's own", cluster, region),
		missing:    map[string]bool{"ClusterNotFoundException": true, "ServiceNotFoundException": true},
	}, func(o *ecs.Options) { o.Region = region }
}

// failureText returns ECS's reason for a failure in an answer, with the detail if there is
// one.
func failureText(reason, detail string) string {
	return secret.Clean(strings.TrimSuffix(reason+": "+detail, ": "), maxMessage)
}
