//go:build sandbox

package main

import (
	"net/netip"
	"os"

	"subnetrouter/cmd/sandbox/sandboxed"
)

// resolveTarget finds the VPC of `make sandbox`.
var resolveTarget = sandboxed.Enter(os.Getenv(sandboxed.Variable), os.Stdin)

// denyDial allows every address: the sandbox's VPC listens on loopback, and
// resolveTarget returns no other addresses than the VPC's.
var denyDial = func(netip.AddrPort) bool { return false }
