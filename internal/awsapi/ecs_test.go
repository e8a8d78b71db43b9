package awsapi_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
)

func TestTasks(t *testing.T) {
	tasks := map[string]awstest.TaskState{
		"stopped": {LastStatus: "STOPPED", StopCode: "EssentialContainerExited", StoppedReason: "Essential container in task exited"},
	}
	world := awstest.World{Clusters: map[string]awstest.Cluster{"network": {Tasks: tasks}}}
	arns := []string{world.TaskARN("network", "stopped"), world.TaskARN("network", "gone")}
	for i := range 210 {
		id := fmt.Sprintf("running-%03d", i)
		tasks[id] = awstest.TaskState{}
		arns = append(arns, world.TaskARN("network", id))
	}
	server, c := serve(t, world, "1", awsapi.Options{})
	for _, cluster := range []string{"network", world.ClusterARN("network")} {
		before := len(server.Calls())
		got, err := c.Tasks(t.Context(), cluster, arns)
		if err != nil || len(got) != 211 {
			t.Fatalf("%s: %d tasks, %v", cluster, len(got), err)
		}
		if n := len(server.Calls()) - before; n != 3 {
			t.Errorf("%d calls, want batches of 100", n)
		}
		if got[arns[211]] != (awsapi.TaskState{LastStatus: "RUNNING", DesiredStatus: "RUNNING", StartedBy: "ecs-svc/1"}) {
			t.Errorf("running: %+v", got[arns[211]])
		}
		if want := (awsapi.TaskState{LastStatus: "STOPPED", DesiredStatus: "STOPPED", StopCode: "EssentialContainerExited", StoppedReason: "Essential container in task exited", StartedBy: "ecs-svc/1"}); got[arns[0]] != want {
			t.Errorf("stopped: %+v", got[arns[0]])
		}
		if _, ok := got[arns[1]]; ok {
			t.Error("a missing task is present")
		}
	}
	if got, err := c.Tasks(t.Context(), "network", nil); err != nil || len(got) != 0 {
		t.Errorf("no tasks: %v, %v", got, err)
	}
	_, err := c.Tasks(t.Context(), "none", arns[:1])
	if want := `calling ecs:DescribeTasks for tasks of cluster "none": ClusterNotFoundException: Cluster not found; check that the cluster none exists in eu-west-1 and that the credentials are the task's own`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	server.Fail("ecs:DescribeTasks", awstest.Denied("ecs:DescribeTasks", arns[0]))
	_, err = c.Tasks(t.Context(), "network", arns[:1])
	if err == nil || !strings.Contains(err.Error(), "allow ecs:DescribeTasks on the tasks of cluster network in the task role's policy") {
		t.Errorf("got %v", err)
	}
}

func TestService(t *testing.T) {
	world := awstest.World{Clusters: map[string]awstest.Cluster{"network": {Services: map[string]awstest.Service{
		"router": {Desired: 2, Running: 3, Pending: 1, MaximumPercent: 150, Deployments: []awstest.Deployment{{Status: "PRIMARY", RolloutState: "IN_PROGRESS"}, {ID: "ecs-svc/0", Status: "ACTIVE", RolloutState: "COMPLETED"}}},
		"plain":  {Desired: 1, Running: 1},
		"gone":   {Inactive: true},
	}}}}
	server, c := serve(t, world, "1", awsapi.Options{})
	for name, want := range map[string]awsapi.ServiceState{
		"router": {Desired: 2, Running: 3, Pending: 1, MaximumPercent: 150, Deployments: []awsapi.Deployment{{ID: "ecs-svc/1", Status: "PRIMARY", RolloutState: "IN_PROGRESS"}, {ID: "ecs-svc/0", Status: "ACTIVE", RolloutState: "COMPLETED"}}},
		"plain":  {Desired: 1, Running: 1, MaximumPercent: 200, Deployments: []awsapi.Deployment{{ID: "ecs-svc/1", Status: "PRIMARY", RolloutState: "COMPLETED"}}},
	} {
		got, err := c.Service(t.Context(), world.ClusterARN("network"), name)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"none", "gone"} {
		if _, err := c.Service(t.Context(), "network", name); err == nil || !strings.Contains(err.Error(), "check that the service exists in cluster network in eu-west-1") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	server.Fail("ecs:DescribeServices", awstest.Denied("ecs:DescribeServices", "x"))
	if _, err := c.Service(t.Context(), "network", "router"); err == nil || !strings.Contains(err.Error(), "allow ecs:DescribeServices on the service router of cluster network") {
		t.Errorf("got %v", err)
	}
}
