package tailnet

import (
	"strings"

	tailscaleroot "tailscale.com"
	"tailscale.com/cmd/tailscale/cli"
)

// CLI runs the stock `tailscale` command line against the LocalAPI socket.
func CLI(args []string) error { return cli.Run(args) }

// Version returns the version of the embedded Tailscale. Tailscale's version package
// has it only in release builds, which the linker stamps because control is sent that one.
func Version() string { return strings.TrimSpace(tailscaleroot.VersionDotTxt) }
