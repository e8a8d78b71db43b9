package bootstrap

import (
	"context"
	"fmt"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/problem"
)

// ScaledIn reports whether ECS stops this task because its service becomes smaller, and why
// that follows. It is meant for a task that was asked to stop. The conditions are:
//
//   - no deployment is in progress: there is one only, and it is complete;
//   - the service has more tasks than desired. ECS counts a task that stops no longer as
//     running, so this one is counted separately;
//   - if ECS has a reason for the stop, it is the service's scheduler. A task that failed a
//     health check is replaced before it is stopped, which otherwise looks the same.
func (b *Bootstrap) ScaledIn(ctx context.Context) (scaledIn bool, why string, err error) {
	task, err := b.place.Task(ctx)
	if err != nil {
		return false, "", err
	}
	if task.Service == "" {
		return false, "the task belongs to no service", nil
	}
	client, err := b.place.AWS(ctx)
	if err != nil {
		return false, "", err
	}
	service, err := client.Service(ctx, task.Cluster, task.Service)
	if err != nil {
		return false, "", problem.Wrapf(err, "finding the size of the service")
	}
	tasks, err := client.Tasks(ctx, task.Cluster, []string{task.ARN})
	if err != nil {
		return false, "", problem.Wrapf(err, "finding the reason why this task stops")
	}
	return judgeScaleIn(service, tasks[task.ARN])
}

// schedulerReason begins ECS's reason for a task that its service's scheduler stops, also
// during a deployment.
const schedulerReason = "Scaling activity initiated by"

func judgeScaleIn(service awsapi.ServiceState, own awsapi.TaskState) (bool, string, error) {
	running := service.Running
	if own.LastStatus != "RUNNING" {
		running++
	}
	why := fmt.Sprintf("%d desired, %d running with this one", service.Desired, running)
	switch n := len(service.Deployments); {
	case n != 1:
		return false, fmt.Sprintf("%d deployments are in progress", n), nil
	case service.Deployments[0].RolloutState != "COMPLETED" && service.Deployments[0].RolloutState != "":
		return false, "a deployment is " + service.Deployments[0].RolloutState, nil
	case own.StoppedReason != "" && !strings.HasPrefix(own.StoppedReason, schedulerReason):
		return false, "ECS stops the task for another reason: " + own.StoppedReason, nil
	case service.Desired >= running:
		return false, why, nil
	}
	return true, why, nil
}

// CredentialIsKey reports whether the credential is an auth key, which cannot remove nodes.
func (b *Bootstrap) CredentialIsKey() bool { return b.credential.IsKey() }

// DeleteNode removes a node from the tailnet: see credential.Provider.DeleteNode.
func (b *Bootstrap) DeleteNode(ctx context.Context, id string) error {
	return b.credential.DeleteNode(ctx, id)
}
