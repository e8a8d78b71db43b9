package bootstrap

import (
	"context"
	"fmt"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/problem"
)

// ScaleIn is the reason why ECS stops this task.
type ScaleIn struct {
	Smaller bool   // the service becomes smaller
	Last    bool   // and no task of it is to remain
	Why     string // why that follows
}

// ScaledIn reports whether ECS stops this task because its service becomes smaller. It is meant
// for a task that was asked to stop. The conditions are:
//
//   - no deployment is in progress: there is one only, which is complete and started this task.
//     The last old task of a deployment may see it complete, too;
//   - the service has more tasks than desired. ECS no longer counts a stopping task as running,
//     so this one is counted separately;
//   - ECS stops the task, and the reason, if it has one, is the service's scheduler. A task that
//     failed a health check is replaced before it is stopped, which otherwise looks the same.
func (b *Bootstrap) ScaledIn(ctx context.Context) (ScaleIn, error) {
	task, err := b.place.Task(ctx)
	if err != nil {
		return ScaleIn{}, err
	}
	if task.Service == "" {
		return ScaleIn{Why: "the task belongs to no service"}, nil
	}
	client, err := b.place.AWS(ctx)
	if err != nil {
		return ScaleIn{}, err
	}
	service, err := client.Service(ctx, task.Cluster, task.Service)
	if err != nil {
		return ScaleIn{}, problem.Wrapf(err, "finding the size of the service")
	}
	tasks, err := client.Tasks(ctx, task.Cluster, []string{task.ARN})
	if err != nil {
		return ScaleIn{}, problem.Wrapf(err, "finding the reason why this task stops")
	}
	own, known := tasks[task.ARN]
	if !known {
		return ScaleIn{Why: "ECS does not know this task"}, nil
	}
	smaller, why := judgeScaleIn(service, own)
	return ScaleIn{Smaller: smaller, Last: smaller && service.Desired == 0, Why: why}, nil
}

// schedulerReason begins ECS's reason for a task that its service's scheduler stops, also
// during a deployment, and schedulerCode is the code of these stops.
const (
	schedulerReason = "Scaling activity initiated by"
	schedulerCode   = "ServiceSchedulerInitiated"
)

func judgeScaleIn(service awsapi.ServiceState, own awsapi.TaskState) (smaller bool, why string) {
	if len(service.Deployments) != 1 {
		return false, fmt.Sprintf("%d deployments are in progress", len(service.Deployments))
	}
	deployment, running := service.Deployments[0], service.Running
	if own.LastStatus != "RUNNING" {
		running++
	}
	why = fmt.Sprintf("%d desired, %d running with this one", service.Desired, running)
	switch {
	case deployment.RolloutState != "COMPLETED" && deployment.RolloutState != "":
		return false, "a deployment is " + deployment.RolloutState
	case own.StartedBy != deployment.ID:
		return false, "another deployment replaced this task"
	case own.DesiredStatus != "STOPPED":
		return false, "ECS wants the task to run"
	case own.StopCode != "" && own.StopCode != schedulerCode, own.StoppedReason != "" && !strings.HasPrefix(own.StoppedReason, schedulerReason):
		return false, strings.TrimSpace("ECS stops the task for another reason: " + own.StopCode + " " + own.StoppedReason)
	case service.Desired >= running:
		return false, why
	}
	return true, why
}

// CredentialIsKey reports whether the credential is an auth key, which cannot remove nodes.
func (b *Bootstrap) CredentialIsKey() bool { return b.credential.IsKey() }

// DeleteNode removes a node from the tailnet: see credential.Provider.DeleteNode.
func (b *Bootstrap) DeleteNode(ctx context.Context, id string) error {
	return b.credential.DeleteNode(ctx, id)
}
