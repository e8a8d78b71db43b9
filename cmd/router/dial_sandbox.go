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
func denyDial(netip.AddrPort) bool { return false }
