//go:build !sandbox

package main

import (
	"context"
	"net"
)

// dialBehind opens connections behind the router; nil is the operating system.
// `make sandbox` builds with another, whose VPC lives in a process.
var dialBehind func(ctx context.Context, network, address string) (net.Conn, error)
