package main

import (
	"testing"

	"subnetrouter/internal/config"
)

// TestListensBelow: each listener of the host counts, in the range that takes a capability.
func TestListensBelow(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   config.Config
		first int
		want  bool
	}{
		"none":                   {config.Config{Listen: ":9002", UDPPort: 41641}, 1024, false},
		"any free ports":         {config.Config{Listen: ":0", UDPPort: 0}, 1024, false},
		"status":                 {config.Config{Listen: ":80"}, 1024, true},
		"status, none reserved":  {config.Config{Listen: ":80"}, 0, false},
		"the first that is free": {config.Config{Listen: ":1024"}, 1024, false},
		"WireGuard":              {config.Config{UDPPort: 443}, 1024, true},
		"relay":                  {config.Config{PeerRelay: 443}, 1024, true},
		"SOCKS5":                 {config.Config{SOCKS5Listen: "127.0.0.1:80"}, 1024, true},
		"HTTP proxy":             {config.Config{HTTPProxyListen: "127.0.0.1:80"}, 1024, true},
		"debug":                  {config.Config{DebugListen: "127.0.0.1:80"}, 1024, true},
		"into the tailnet":       {config.Config{Egress: []config.EgressPort{{Listen: "127.0.0.1:5432"}, {Listen: "127.0.0.1:53", UDP: true}}}, 1024, true},
	} {
		if got := listensBelow(c.cfg, c.first); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
