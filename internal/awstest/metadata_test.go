package awstest_test

import (
	"net/http"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ecsmeta"
)

func TestMetadataMatchesTask(t *testing.T) {
	task := awstest.Task{
		Family: "edge", Service: "edge-service", VPCID: "vpc-0abc", CPU: 0.5, MemoryMiB: 1024,
		MAC:  "06:8f:2a:13:5c:e1",
		IPv4: []netip.Addr{netip.MustParseAddr("10.20.1.37")}, IPv6: []netip.Addr{netip.MustParseAddr("fd00:1::37")},
		IPv4Subnet: netip.MustParsePrefix("10.20.1.0/24"), IPv6Subnet: netip.MustParsePrefix("fd00:1::/64"),
		DNS: []netip.Addr{netip.MustParseAddr("10.20.0.2")},
	}
	want := ecsmeta.Task{
		Cluster: "arn:aws:ecs:eu-west-1:123456789012:cluster/network",
		ARN:     "arn:aws:ecs:eu-west-1:123456789012:task/network/6f1d0c5be2ab4d07a1f3c2b4d5e6f708",
		Family:  "edge", Revision: "7", Service: "edge-service", LaunchType: "FARGATE",
		Zone: "eu-west-1a", Region: "eu-west-1",
		ContainerID:  "6f1d0c5be2ab4d07a1f3c2b4d5e6f708-1870464382",
		ContainerARN: "arn:aws:ecs:eu-west-1:123456789012:container/network/6f1d0c5be2ab4d07a1f3c2b4d5e6f708/0f4c1f1e-58ad-4a1b-9d2b-8f5d2f0a7c11",
		Limits:       ecsmeta.Limits{CPU: 0.5, MemoryMiB: 1024},
		Network: ecsmeta.Network{
			Mode: "awsvpc", MAC: task.MAC, IPv4: task.IPv4, IPv6: task.IPv6,
			IPv4Subnet: task.IPv4Subnet, IPv6Subnet: task.IPv6Subnet, DNS: task.DNS,
		},
	}
	m, err := awstest.NewMetadata("", task)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	check := func(step string) {
		t.Helper()
		got, err := ecsmeta.New(m.URI(), nil).Task(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got  %+v\nwant %+v", step, got, want)
		}
	}
	check("Fargate never reports a VPC")

	m.Update(func(t *awstest.Task) { t.LaunchType = "EC2" })
	want.LaunchType, want.VPCID = "EC2", "vpc-0abc"
	check("EC2")

	m.Fail("/task", awstest.Failure{Status: http.StatusInternalServerError, Times: 2})
	check("two failures are retried")

	m.Update(func(t *awstest.Task) { t.ContainerID = "6f1d0c5be2ab4d07a1f3c2b4d5e6f708-0265927825" })
	want.ContainerID = "6f1d0c5be2ab4d07a1f3c2b4d5e6f708-0265927825"
	check("the container was restarted")

	m.Update(func(t *awstest.Task) { t.NetworkMode = "bridge"; t.IPv6 = nil })
	want.Network = ecsmeta.Network{Mode: "bridge", IPv4: task.IPv4}
	check("bridge")
}

// TestRoleCredentials: without a key in the environment, the SDK uses the container
// credentials of ECS.
func TestRoleCredentials(t *testing.T) {
	server, err := awstest.NewServer("", awstest.World{Secrets: map[string]awstest.Secret{"s": {Value: "v", Created: time.UnixMilli(1795424764250)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	m, err := awstest.NewMetadata("", awstest.Task{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	awstest.Setenv(t, server.Env(), map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": m.CredentialsURI(),
	})
	client, err := awsapi.New(t.Context(), awsapi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Secret(t.Context(), awsapi.SecretRef{ID: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Value.Reveal() != "v" || !got.Created.Equal(time.UnixMilli(1795424764250)) {
		t.Errorf("got %q of %v", got.Value.Reveal(), got.Created)
	}
	if calls := server.Calls(); !reflect.DeepEqual(calls, []string{"secretsmanager:GetSecretValue"}) {
		t.Errorf("calls: %v", calls)
	}
}
