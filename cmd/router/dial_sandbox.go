//go:build sandbox

package main

import (
	"os"

	"subnetrouter/cmd/sandbox/sandboxed"
)

// dialBehind opens connections into the VPC of `make sandbox`.
var dialBehind = sandboxed.Enter(os.Getenv(sandboxed.Variable), os.Stdin)
