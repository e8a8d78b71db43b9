package router

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"subnetrouter/internal/ops"
)

// serveDebug serves Go's profiles on ROUTER_DEBUG_LISTEN. Profiles contain no secrets, but
// reveal much else, so they are off by default, and on loopback unless an address is given.
func (r *Router) serveDebug(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	ln, err := net.Listen("tcp", r.cfg.DebugListen)
	if err == nil {
		r.deny.Opened(ln.Addr())
		r.log.Info("profiles served", "listen", r.cfg.DebugListen)
		err = ops.ServeProfiles(ctx, ln, mux, r.registry, r.log)
	}
	if err != nil {
		return fmt.Errorf("serving profiles on ROUTER_DEBUG_LISTEN=%s: %w", r.cfg.DebugListen, err)
	}
	return nil
}
