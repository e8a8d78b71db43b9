package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/testwait"
)

// start runs the parts of the router in the test's process, wired as in [Router.Run], for
// tests that a child process does not allow.
func start(t *testing.T, s *routertest.Setting, opts Options) *Router {
	t.Helper()
	var environ []string
	for name, value := range s.Env {
		environ = append(environ, name+"="+value)
		t.Setenv(name, value) // the AWS SDK reads its own
	}
	cfg, err := config.Load(nil, environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(cfg, opts, slog.New(slog.DiscardHandler), eventlog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ops.Listen(r.opsConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	r.lookUps.start(ctx)
	go r.access.run(ctx)
	if err := r.node.Start(r.forward, r.peers, nil); err != nil {
		t.Fatal(err)
	}
	followed := make(chan struct{})
	go func() { defer close(followed); r.followRoutes(ctx) }()
	if err := r.join(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if err := r.closeNode(context.Background()); err != nil {
			t.Error(err)
		}
		cancel()
		<-followed
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	testwait.Until(t, "the router to be ready", func() error {
		if reasons := r.notReady(); len(reasons) > 0 {
			return fmt.Errorf("not ready: %v", reasons)
		}
		return nil
	})
	return r
}

var scraper = &http.Client{Timeout: testwait.Limit()}
