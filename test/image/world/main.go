// Command world runs the router's surroundings in the image test. It is one static binary
// for containers without other files, except for tailscaled:
//
//	world cloud    control server with DERP server, AWS endpoints, task metadata
//	world service  servers in the VPC: HTTP and UDP
//	world app      application next to a router, in its network
//	world client   node of the tailnet, which sends on request
//	world dial     connects its standard input and output with an address
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "world:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: world cloud|service|app|client|dial")
	}
	part, args := args[0], args[1:]
	switch part {
	case "cloud":
		return cloud(ctx, args)
	case "service":
		return service(ctx)
	case "app":
		return app(ctx)
	case "client":
		return client(ctx, args)
	case "dial":
		return dial(ctx, args)
	}
	return fmt.Errorf("unknown part %q; usage: world cloud|service|app|client|dial", part)
}

// announce prints v as one line of JSON, for which the test waits.
func announce(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// ownAddr returns the container's IPv4 address on its only network.
func ownAddr() (netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no IPv4 address but loopback: %v", list)
}
