package tailnet

import (
	"tailscale.com/cmd/tailscale/cli"
	"tailscale.com/version"
)

// CLI runs the stock `tailscale` command line against the LocalAPI socket.
func CLI(args []string) error { return cli.Run(args) }

// Version is the version of the embedded Tailscale.
func Version() string { return version.Short() }
