// Command world is all that surrounds the router in the image test, in one
// static binary for containers made from scratch:
//
//	world cloud    control server with relay, AWS endpoints, task metadata
//	world service  what is in the VPC: HTTP and UDP
//	world client   a member of the tailnet, and the way to send through it
//	world dial     connects its input and output with an address
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
		return fmt.Errorf("which part?")
	}
	part, args := args[0], args[1:]
	switch part {
	case "cloud":
		return cloud(ctx, args)
	case "service":
		return service(ctx)
	case "client":
		return client(ctx, args)
	case "dial":
		return dial(ctx, args)
	}
	return fmt.Errorf("there is no part %q", part)
}

// announce prints what the test waits for, as one line of JSON.
func announce(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// ownAddr is the container's IPv4 address on its only network.
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
