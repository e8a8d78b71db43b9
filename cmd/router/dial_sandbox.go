//go:build sandbox

package main

import (
	"os"

	"subnetrouter/cmd/sandbox/sandboxed"
)

// resolveTarget finds the VPC of `make sandbox`.
var resolveTarget = sandboxed.Enter(os.Getenv(sandboxed.Variable), os.Stdin)
