package tailnet

import (
	"testing"

	"subnetrouter/internal/bootstrap/routesource"

	"tailscale.com/ipn"
)

// Package routesource, which must not import tailscale.com, has the same URL.
func TestDefaultControl(t *testing.T) {
	if routesource.DefaultControl != ipn.DefaultControlURL {
		t.Errorf("routesource has %s, tailscale.com %s", routesource.DefaultControl, ipn.DefaultControlURL)
	}
}
