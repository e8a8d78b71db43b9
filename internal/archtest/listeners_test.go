package archtest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// binds lists the files of the product that bind a socket, and why clients cannot reach it
// through the router.
var binds = map[string]string{
	"internal/router/profiles.go":      "passes its address to denylist.List.Opened",
	"internal/router/run.go":           "passes the address of ops.Listen to denylist.List.Opened",
	"internal/ops/ops.go":              "run.go, see there",
	"internal/forward/sock.go":         "sockets of flows, connected before anything is read from them",
	"internal/egress/listen.go":        "passes its addresses to Config.Opened, which is denylist.List.Opened",
	"internal/tlsfront/tlsfront.go":    "router/servetls.go passes its address to denylist.List.Opened",
	"internal/tailnet/listen.go":       "the node's tailnet addresses, in this process: behind a route they are not reachable",
	"internal/tailnet/peerapi.go":      "listen.go, see there; passes the port to denylist.List.OpenedPort",
	"internal/tailnet/tailnet.go":      "the interface that listen.go calls",
	"internal/router/tailnetstatus.go": "listen.go, see there",
	"internal/tailnet/localapi.go":     "a Unix socket",
	"internal/denylist/watch_linux.go": "netlink",
}

var bind = regexp.MustCompile(`\b(Listen(Packet|TCP|UDP|IP|Unix\w*|MulticastUDP|AndServe\w*|Config)?|ServeTLS|Bind)[({]`)

// TestListenersAreDenied finds each of our files that opens a listener, so that the author
// of a new one adds it to the deny list.
func TestListenersAreDenied(t *testing.T) {
	deps, err := golist("-deps", "-tags", tags(t), "./cmd/router")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, p := range deps {
		if !strings.HasPrefix(p.ImportPath, module) {
			continue
		}
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				code, _, _ := strings.Cut(line, "//")
				if bind.MatchString(code) && !strings.HasPrefix(strings.TrimSpace(code), "func ") {
					found[p.name()+"/"+file] = true
				}
			}
		}
	}
	for _, file := range slices.Sorted(maps.Keys(found)) {
		if binds[file] == "" {
			t.Errorf("%s opens a listener: add it to the deny list with denylist.List.Opened, then add the file to binds", file)
		}
	}
	for file := range binds {
		if !found[file] {
			t.Errorf("%s opens no listener: remove it from binds", file)
		}
	}
}
