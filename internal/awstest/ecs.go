package awstest

import (
	"fmt"
	"strings"
)

// Cluster is an ECS cluster.
type Cluster struct {
	Tasks    map[string]TaskState // by ID; ECS does not know others, or no longer
	Services map[string]Service   // by name
}

// TaskState is the state of a task, as ECS reports it to others.
type TaskState struct {
	LastStatus    string // default "RUNNING"
	DesiredStatus string // default "STOPPED" if LastStatus is, else "RUNNING"
	StopCode      string
	StoppedReason string
	StartedBy     string // default "ecs-svc/1"
}

// Service is an ECS service.
type Service struct {
	Desired, Running, Pending int
	MaximumPercent            int          // default 200
	Deployments               []Deployment // default: a completed one
	Inactive                  bool         // deleted a short time ago
}

// Deployment is a deployment of a service.
type Deployment struct {
	ID           string // default "ecs-svc/1"
	Status       string // "PRIMARY", "ACTIVE", "INACTIVE"
	RolloutState string // "IN_PROGRESS", "COMPLETED", "FAILED"
}

// ClusterARN returns the ARN of the cluster with this name in a [Server].
func (w World) ClusterARN(name string) string {
	return fmt.Sprintf("arn:aws:ecs:%s:%s:cluster/%s", w.region(), w.account(), name)
}

// TaskARN returns the ARN of a task in a [Server].
func (w World) TaskARN(cluster, id string) string {
	return fmt.Sprintf("arn:aws:ecs:%s:%s:task/%s/%s", w.region(), w.account(), cluster, id)
}

// cluster finds a cluster by its name or ARN.
func (w World) cluster(id string) (name string, c Cluster, no *awsError) {
	name = or(strings.TrimPrefix(id, w.ClusterARN("")), "default")
	c, ok := w.Clusters[name]
	if !ok {
		return "", Cluster{}, &awsError{Code: "ClusterNotFoundException", Message: "Cluster not found."}
	}
	return name, c, nil
}

// maxDescribed is the most tasks of DescribeTasks:
// https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DescribeTasks.html
const maxDescribed = 100

type describeTasks struct {
	Cluster string
	Tasks   []string
}

type ecsFailure struct {
	ARN    string `json:"arn"`
	Reason string `json:"reason"`
}

type tasksResult struct {
	Tasks    []taskItem   `json:"tasks"`
	Failures []ecsFailure `json:"failures"`
}

type taskItem struct {
	ARN           string `json:"taskArn"`
	ClusterARN    string `json:"clusterArn"`
	LastStatus    string `json:"lastStatus"`
	DesiredStatus string `json:"desiredStatus"`
	StopCode      string `json:"stopCode,omitempty"`
	StoppedReason string `json:"stoppedReason,omitempty"`
	StartedBy     string `json:"startedBy"`
}

func (s *Server) describeTasks(region string, in describeTasks) (tasksResult, *awsError) {
	out := tasksResult{Tasks: []taskItem{}, Failures: []ecsFailure{}}
	w := s.snapshot().in(region)
	name, c, no := w.cluster(in.Cluster)
	if no != nil {
		return out, no
	}
	if n := len(in.Tasks); n == 0 || n > maxDescribed {
		return out, &awsError{Code: "InvalidParameterException", Message: fmt.Sprintf("Tasks must have 1 to %d elements.", maxDescribed)}
	}
	for _, id := range in.Tasks {
		t, ok := c.Tasks[strings.TrimPrefix(id, w.TaskARN(name, ""))]
		arn := w.TaskARN(name, strings.TrimPrefix(id, w.TaskARN(name, "")))
		if strings.HasPrefix(id, "arn:") {
			arn = id
		}
		if !ok {
			out.Failures = append(out.Failures, ecsFailure{arn, "MISSING"})
			continue
		}
		last := or(t.LastStatus, "RUNNING")
		desired := t.DesiredStatus
		if desired == "" && last == "STOPPED" {
			desired = last
		}
		out.Tasks = append(out.Tasks, taskItem{arn, w.ClusterARN(name), last, or(desired, "RUNNING"), t.StopCode, t.StoppedReason, or(t.StartedBy, defaultDeployment)})
	}
	return out, nil
}

type describeServices struct {
	Cluster  string
	Services []string
}

type servicesResult struct {
	Services []serviceItem `json:"services"`
	Failures []ecsFailure  `json:"failures"`
}

type serviceItem struct {
	ARN                     string            `json:"serviceArn"`
	Name                    string            `json:"serviceName"`
	Status                  string            `json:"status"`
	Desired                 int               `json:"desiredCount"`
	Running                 int               `json:"runningCount"`
	Pending                 int               `json:"pendingCount"`
	DeploymentConfiguration deploymentPercent `json:"deploymentConfiguration"`
	Deployments             []deploymentItem  `json:"deployments"`
}

type deploymentPercent struct {
	Maximum int `json:"maximumPercent"`
	Minimum int `json:"minimumHealthyPercent"`
}

// defaultDeployment is the ID of the deployment that started a task, unless it has another.
const defaultDeployment = "ecs-svc/1"

type deploymentItem struct {
	ID           string `json:"id"`
	Status       string `json:"status"`
	RolloutState string `json:"rolloutState,omitempty"`
}

func (s *Server) describeServices(region string, in describeServices) (servicesResult, *awsError) {
	out := servicesResult{Services: []serviceItem{}, Failures: []ecsFailure{}}
	w := s.snapshot().in(region)
	cluster, c, no := w.cluster(in.Cluster)
	if no != nil {
		return out, no
	}
	for _, id := range in.Services {
		prefix := fmt.Sprintf("arn:aws:ecs:%s:%s:service/%s/", w.region(), w.account(), cluster)
		name := strings.TrimPrefix(id, prefix)
		service, ok := c.Services[name]
		if !ok {
			out.Failures = append(out.Failures, ecsFailure{prefix + name, "MISSING"})
			continue
		}
		out.Services = append(out.Services, service.item(prefix+name, name))
	}
	return out, nil
}

func (s Service) item(arn, name string) serviceItem {
	item := serviceItem{
		ARN: arn, Name: name, Status: "ACTIVE", Desired: s.Desired, Running: s.Running, Pending: s.Pending,
		DeploymentConfiguration: deploymentPercent{200, 100},
		Deployments:             []deploymentItem{},
	}
	if s.MaximumPercent != 0 {
		item.DeploymentConfiguration.Maximum = s.MaximumPercent
	}
	if s.Inactive {
		item.Status = "INACTIVE"
		return item
	}
	for _, d := range s.Deployments {
		d.ID = or(d.ID, defaultDeployment)
		item.Deployments = append(item.Deployments, deploymentItem(d))
	}
	if len(s.Deployments) == 0 {
		item.Deployments = append(item.Deployments, deploymentItem{defaultDeployment, "PRIMARY", "COMPLETED"})
	}
	return item
}
