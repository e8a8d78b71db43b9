// Package ecsmeta reads where this container runs from the ECS task metadata endpoint, version
// 4.
//
// The address is in ECS_CONTAINER_METADATA_URI_V4. The address itself returns a document about
// this container, and "/task" one about its task. This package merges both into one [Task]. On
// Fargate the network part names the task's subnet, never its VPC.
package ecsmeta

import (
	"net/netip"
	"regexp"

	"subnetrouter/internal/awsapi"
)

// Variable is the environment variable in which ECS puts the endpoint's address.
const Variable = "ECS_CONTAINER_METADATA_URI_V4"

// Task is the metadata about the task and this container's network. Fields that the platform
// does not report are zero.
type Task struct {
	Cluster    string // ARN or short name
	ARN        string
	Family     string
	Revision   string
	Service    string // "" for a task that was not started by a service
	LaunchType string // "FARGATE" or "EC2"
	Zone       string // availability zone
	Region     string // from the task's ARN, else from Zone
	VPCID      string // EC2 only; "" on Fargate
	// ContainerID is the runtime's ID of this container. A restart of the container in
	// the same task changes it.
	ContainerID  string
	ContainerARN string
	Limits       Limits
	Network      Network
}

// Limits are the limits of this container; zero means that ECS reports none.
type Limits struct {
	CPU       float64 // vCPUs of the task
	MemoryMiB int     // the smaller of the task's limit and this container's
}

// ModeVPC is the network mode in which a task has its own network interface.
const ModeVPC = "awsvpc"

// Network is this container's first network. In network modes other than awsvpc, ECS reports
// little more than an address.
type Network struct {
	Mode            string // ModeVPC, "bridge", "host"
	MAC             string // of the task's own interface; awsvpc only
	AttachmentIndex int
	IPv4            []netip.Addr
	IPv6            []netip.Addr
	IPv4Subnet      netip.Prefix // the subnet's CIDR, not the VPC's; zero if not reported
	IPv6Subnet      netip.Prefix
	DNS             []netip.Addr // the VPC's resolver comes first
}

// Subnets returns the reported subnet CIDRs, IPv4 first.
func (n Network) Subnets() []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range []netip.Prefix{n.IPv4Subnet, n.IPv6Subnet} {
		if p.IsValid() {
			ps = append(ps, p)
		}
	}
	return ps
}

// A zone's name is that of its region and a suffix: "eu-west-1a", "us-west-2-lax-1a".
var regionOfZone = regexp.MustCompile(`^[a-z]+(?:-[a-z]+)+-\d+`)

func region(taskARN, zone string) string {
	if arn, ok := awsapi.ParseARN(taskARN); ok && arn.Region != "" {
		return arn.Region
	}
	return regionOfZone.FindString(zone)
}
