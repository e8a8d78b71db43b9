package router

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"subnetrouter/internal/config"

	"github.com/prometheus/client_golang/prometheus"
)

// TestHostnameOutsideECS: a node keeps its name in each new container, unless its variables are those of the
// official image.
func TestHostnameOutsideECS(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	for routes, want := range map[string]string{"ROUTER_ROUTES": "subnet-router", "TS_ROUTES": hostnameFrom(host)} {
		cfg, err := config.Load(nil, []string{"TS_AUTHKEY=tskey-auth-k1-x", routes + "=192.168.1.0/24"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newLookUps(cfg, slog.New(slog.DiscardHandler), prometheus.NewPedanticRegistry())
		if got := s.hostname(t.Context()); got != want {
			t.Errorf("with %s: %q, want %q", routes, got, want)
		}
	}
}
