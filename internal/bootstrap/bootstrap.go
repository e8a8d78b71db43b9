// Package bootstrap finds the start-up facts: where the router runs, with
// which credential it joins, and which routes it advertises.
//
// Each fact is asked for when it is needed, and again as often as the caller
// likes; nothing runs in between. AWS is only configured for a question that
// needs it, so a laptop with an auth key and CIDRs never touches the SDK.
package bootstrap

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/ecsmeta"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/secret"
)

// Config says what to look for.
type Config struct {
	// MetadataURI is the value of ECS_CONTAINER_METADATA_URI_V4; "" outside ECS.
	MetadataURI string

	// AuthKey is a literal auth key or OAuth client secret; if set, Secrets Manager is not asked.
	AuthKey secret.String
	// SecretID is the name or ARN in ROUTER_AUTH_SECRET, without ECS's suffix.
	SecretID string
	// SecretJSONKey selects a value of a JSON payload; "" means the known names.
	SecretJSONKey string
	// SecretVersionStage and SecretVersionID select a version; "" means AWSCURRENT.
	SecretVersionStage, SecretVersionID string

	// ClientID and Audience are for workload identity federation; it is used
	// if there is neither a key nor a secret.
	ClientID, Audience string
	// APIURL is the API that makes auth keys; "" is Tailscale's.
	APIURL string
	// Tags are what keys that are made give to the node, and Ephemeral says
	// that the node vanishes when it goes offline.
	Tags      []string
	Ephemeral bool

	// Sources are where routes come from, the addresses of Exclude left out.
	Sources []routes.Source
	Exclude []netip.Prefix
	// Site is the 4via6 site under which IPv4 routes go out; nil is none.
	Site *uint32
	// ControlURL is the control server; "" is [DefaultControl].
	ControlURL string

	// Logger gets transitions, and the AWS SDK's words at debug level; nil drops them.
	Logger *slog.Logger
	// Called hears of every AWS call: see [awsapi.Options].
	Called func(action string, err error)
	// APICalled hears of every call of Tailscale's API: see [tsapi.Config].
	APICalled func(call string, err error)

	// TryTimeout and Tries bound AWS calls, and Date hears what time AWS has: see
	// [awsapi.Options].
	TryTimeout time.Duration
	Tries      int
	Date       func(time.Time)

	// Transport carries AWS calls, task metadata and calls of Tailscale's API;
	// nil is the network.
	Transport http.RoundTripper
	// LocalAddrs lists the addresses of this machine; nil asks the operating
	// system. It is not asked where task metadata lists them.
	LocalAddrs func() ([]netip.Addr, error)
	// LookupHost resolves names; nil asks the operating system.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Bootstrap answers for one [Config]. It is safe for concurrent use.
type Bootstrap struct {
	config Config
	log    *slog.Logger

	// What cannot change while the task lives is asked once.
	task memo[ecsmeta.Task]
	eni  memo[awsapi.Interface]
	aws  memo[*awsapi.Client]

	credentials *credentials

	primary atomic.Pointer[netip.Prefix] // the VPC's, once its CIDRs were looked up
	control struct {
		sync.Mutex
		asked time.Time
		addrs []netip.Addr
	}
}

// New returns a Bootstrap. It asks nothing yet.
func New(c Config) *Bootstrap {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bootstrap{
		config: c, log: log,
		task: newMemo[ecsmeta.Task](),
		eni:  newMemo[awsapi.Interface](),
		aws:  newMemo[*awsapi.Client](),
	}
	secret.Remember(c.AuthKey.Reveal())
	b.credentials = newCredentials(b)
	return b
}

// Place is where the router runs. SubnetID, and VPCID on Fargate, are "" until
// [Bootstrap.Routes] had to ask EC2 for them.
type Place struct {
	ecsmeta.Task
	SubnetID string
}

// Place reads the task metadata once. Outside ECS it is zero.
func (b *Bootstrap) Place(ctx context.Context) (Place, error) {
	if b.config.MetadataURI == "" {
		return Place{}, nil
	}
	task, err := b.readTask(ctx)
	if err != nil {
		return Place{}, err
	}
	place := Place{Task: task}
	if eni, known := b.eni.known(); known {
		place.VPCID, place.SubnetID = eni.VPCID, eni.SubnetID
	}
	return place, nil
}

func (b *Bootstrap) readTask(ctx context.Context) (ecsmeta.Task, error) {
	return b.task.get(ctx, func(ctx context.Context) (ecsmeta.Task, error) {
		var client *http.Client
		if b.config.Transport != nil {
			client = &http.Client{Transport: b.config.Transport}
		}
		task, err := ecsmeta.New(b.config.MetadataURI, client).Task(ctx)
		if err == nil {
			b.log.Info("task metadata read", "launch_type", task.LaunchType, "zone", task.Zone,
				"family", task.Family, "network_mode", task.Network.Mode, "memory_mib", task.Limits.MemoryMiB)
		}
		return task, err
	})
}

// client configures AWS. The region comes from the SDK's environment, then
// from the task, which ECS does not repeat in the environment on EC2, then
// from the secret's ARN.
func (b *Bootstrap) client(ctx context.Context) (*awsapi.Client, error) {
	return b.aws.get(ctx, func(ctx context.Context) (*awsapi.Client, error) {
		place, placeErr := b.Place(ctx)
		region := place.Region
		if arn, ok := awsapi.ParseARN(b.config.SecretID); ok && region == "" {
			region = arn.Region
		}
		client, err := awsapi.New(ctx, awsapi.Options{
			Region: region, Logger: b.log, Called: b.config.Called, Transport: b.config.Transport,
			TryTimeout: b.config.TryTimeout, Tries: b.config.Tries, Date: b.config.Date,
		})
		if err != nil && placeErr != nil {
			return nil, placeErr // it would have named the region
		}
		return client, err
	})
}
