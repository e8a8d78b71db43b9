package tailnet

import (
	"strings"

	tailscaleroot "tailscale.com"
	"tailscale.com/cmd/tailscale/cli"
)

// CLI runs the stock `tailscale` command line against the LocalAPI socket.
func CLI(args []string) error { return cli.Run(args) }

// Version is the version of the embedded Tailscale. (Its own version package
// reports an error marker unless the linker stamped it; what control is told
// comes from there, so release builds stamp it.)
func Version() string { return strings.TrimSpace(tailscaleroot.VersionDotTxt) }
