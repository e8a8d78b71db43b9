// Package place looks up the place of the router: the task, its region, VPC and subnet, and
// the IP versions of which it has an address.
//
// Task metadata is read first. EC2 is called only for facts that metadata lacks, and the SDK
// is configured only for such a call.
package place

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/ecsmeta"
	"subnetrouter/internal/memo"
	"subnetrouter/internal/problem"
)

// Config describes the surroundings of a [Finder].
type Config struct {
	// MetadataURI is the value of ECS_CONTAINER_METADATA_URI_V4; "" outside ECS.
	MetadataURI string
	// Region is used if neither the SDK's environment nor the task has one.
	Region string
	// AWS configures AWS calls, except for the region.
	AWS awsapi.Options
	// Transport carries requests for task metadata; nil means the network.
	Transport http.RoundTripper
	// LocalAddrs lists the addresses of this machine; nil asks the operating
	// system. It is not called where task metadata lists them.
	LocalAddrs func() ([]netip.Addr, error)
	// Logger receives the results of look-ups; it must not be nil.
	Logger *slog.Logger
}

// Place is the place of the router. SubnetID, and VPCID on Fargate, are "" until a call of
// [Finder.Interface] has succeeded.
type Place struct {
	ecsmeta.Task
	SubnetID string
}

// Finder looks up the place. Facts that cannot change during the life of the task are looked
// up once. It is safe for concurrent use.
type Finder struct {
	config Config

	task *memo.Memo[ecsmeta.Task]
	eni  *memo.Memo[awsapi.Interface]
	aws  *memo.Memo[*awsapi.Client]

	primary atomic.Pointer[netip.Prefix] // the VPC's primary CIDR, after VPC was called
}

// New returns a Finder. It looks nothing up.
func New(c Config) *Finder {
	f := &Finder{config: c}
	f.task = memo.New(f.readTask)
	f.eni = memo.New(f.findInterface)
	f.aws = memo.New(f.newClient)
	return f
}

// OnECS reports whether there is task metadata.
func (f *Finder) OnECS() bool { return f.config.MetadataURI != "" }

// Task returns the task metadata. Outside ECS it is an error.
func (f *Finder) Task(ctx context.Context) (ecsmeta.Task, error) { return f.task.Get(ctx) }

// Place returns task metadata, with the VPC and subnet if [Finder.Interface] has found them.
// Outside ECS it is zero.
func (f *Finder) Place(ctx context.Context) (Place, error) {
	if !f.OnECS() {
		return Place{}, nil
	}
	task, err := f.Task(ctx)
	if err != nil {
		return Place{}, err
	}
	p := Place{Task: task}
	if eni, known := f.eni.Cached(); known {
		p.VPCID, p.SubnetID = eni.VPCID, eni.SubnetID
	}
	return p, nil
}

func (f *Finder) readTask(ctx context.Context) (ecsmeta.Task, error) {
	var client *http.Client
	if f.config.Transport != nil {
		client = &http.Client{Transport: f.config.Transport}
	}
	task, err := ecsmeta.New(f.config.MetadataURI, client).Task(ctx)
	if err == nil {
		f.config.Logger.Info("task metadata read", "launch_type", task.LaunchType, "zone", task.Zone,
			"family", task.Family, "network_mode", task.Network.Mode, "memory_mib", task.Limits.MemoryMiB)
	}
	return task, err
}

// AWS returns the client for AWS calls. Its region is that of the SDK's environment, else of
// the task, as ECS does not set the environment on EC2, else of [Config].
func (f *Finder) AWS(ctx context.Context) (*awsapi.Client, error) { return f.aws.Get(ctx) }

func (f *Finder) newClient(ctx context.Context) (*awsapi.Client, error) {
	p, placeErr := f.Place(ctx)
	options := f.config.AWS
	if options.Region = p.Region; options.Region == "" {
		options.Region = f.config.Region
	}
	client, err := awsapi.New(ctx, options)
	if err != nil && placeErr != nil {
		return nil, placeErr // the cause: the task has the region
	}
	return client, err
}

// Interface returns the task's network interface with its VPC and subnet, which EC2 finds
// by the MAC address.
func (f *Finder) Interface(ctx context.Context) (awsapi.Interface, error) { return f.eni.Get(ctx) }

func (f *Finder) findInterface(ctx context.Context) (awsapi.Interface, error) {
	task, err := f.Task(ctx)
	if err != nil {
		return awsapi.Interface{}, err
	}
	client, err := f.AWS(ctx)
	if err != nil {
		return awsapi.Interface{}, err
	}
	return client.InterfaceByMAC(ctx, task.Network.MAC)
}

// VPCID returns the VPC's ID from task metadata, else from the interface.
func (f *Finder) VPCID(ctx context.Context) (string, error) {
	task, err := f.Task(ctx)
	if err != nil {
		return "", err
	}
	if task.VPCID != "" {
		return task.VPCID, nil
	}
	if task.Network.MAC == "" {
		return "", problem.New("run the task with network mode awsvpc, update the ECS agent to 1.63.1 or later, or set ROUTER_ROUTES to CIDRs",
			"task metadata gives neither VPCID nor MACAddress in network mode %q", task.Network.Mode)
	}
	eni, err := f.Interface(ctx)
	return eni.VPCID, err
}

// VPC returns the task's VPC with its current CIDRs.
func (f *Finder) VPC(ctx context.Context) (awsapi.VPC, error) {
	id, err := f.VPCID(ctx)
	if err != nil {
		return awsapi.VPC{}, err
	}
	client, err := f.AWS(ctx)
	if err != nil {
		return awsapi.VPC{}, err
	}
	vpc, err := client.VPC(ctx, id)
	if err == nil {
		f.primary.Store(&vpc.Primary)
	}
	return vpc, err
}
