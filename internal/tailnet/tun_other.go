//go:build !linux

package tailnet

import (
	"github.com/tailscale/wireguard-go/tun"
	"tailscale.com/net/tstun"
	"tailscale.com/types/logger"
)

func openTUN(logf logger.Logf) (tun.Device, string, error) { return tstun.New(logf, tunName) }
