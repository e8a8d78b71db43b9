package main

import (
	"context"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
)

const (
	tag    = "tag:subnet-router"
	eniMAC = "02:42:0a:4d:00:07"
	vpcID  = "vpc-0a1b2c3d4e5f60718"
)

// cloud runs the control server and AWS until ctx ends. It announces the environment that
// ECS sets for the router, and the metadata variables of each task.
func cloud(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cloud", flag.ExitOnError)
	var vpc netip.Prefix
	flags.TextVar(&vpc, "vpc", netip.Prefix{}, "`CIDR` of the VPC")
	key := flags.String("key", "", "auth `key` that the secret holds")
	macs := flags.String("macs", eniMAC, "comma `list`: the MAC address of each task")
	approve := flags.Bool("approve", false, "approve the VPC's routes, as autoApprovers do")
	flags.Parse(args)

	host, err := ownAddr()
	if err != nil {
		return err
	}
	tailnettest.Isolate()
	var policy tailnettest.Policy
	if *approve {
		policy.AutoApprovers = map[string][]netip.Prefix{tag: {vpc}}
	}
	tailnet, err := tailnettest.Start(tailnettest.Config{
		Host:        host,
		ControlPort: 80,
		Policy:      policy,
		Keys: []tailnettest.Key{{
			Value: secret.String(*key), Reusable: true, Ephemeral: true, Preauthorized: true, Tags: []string{tag},
		}},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	defer tailnet.Close()

	anyPort := netip.AddrPortFrom(host, 0).String()
	aws, err := awstest.NewServer(anyPort, awstest.World{
		Secrets:    map[string]awstest.Secret{"tailnet/auth-key": {Value: *key}},
		VPCs:       []awstest.VPC{{ID: vpcID, CIDRs: []awstest.Association{{ID: "vpc-cidr-assoc-0a1b2c3d", Prefix: vpc}}}},
		Interfaces: []awstest.Interface{{ID: "eni-0a1b2c3d4e5f60718", MAC: eniMAC, VPCID: vpcID, SubnetID: "subnet-0a1b2c3d4e5f60718"}},
	})
	if err != nil {
		return err
	}
	defer aws.Close()
	var tasks []map[string]string
	for mac := range strings.SplitSeq(*macs, ",") {
		metadata, err := awstest.NewMetadata(anyPort, awstest.Task{Family: "vpc-router", MAC: mac, MemoryMiB: 512})
		if err != nil {
			return err
		}
		defer metadata.Close()
		tasks = append(tasks, metadata.Env())
	}

	env := aws.Env()
	env["ROUTER_AUTH_SECRET"] = "tailnet/auth-key"
	env["ROUTER_CONTROL_URL"] = tailnet.ControlURL()
	if err := announce(map[string]any{"control_url": tailnet.ControlURL(), "env": env, "tasks": tasks}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
