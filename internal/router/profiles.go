package router

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"

	"subnetrouter/internal/ops"
)

// serveDebug serves Go's profiles on ROUTER_DEBUG_LISTEN. A profile shows no
// secret, but much else: it is off unless asked for, and on loopback unless
// said otherwise.
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
