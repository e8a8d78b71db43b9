package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// serveDebug serves Go's profiles on ROUTER_DEBUG_LISTEN. A profile shows no
// secret, but much else: it is off unless asked for, and on loopback unless
// said otherwise. opened is called with the address once it is bound.
func serveDebug(ctx context.Context, listen string, opened func(net.Addr), log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listening on ROUTER_DEBUG_LISTEN=%s: %w", listen, err)
	}
	opened(ln.Addr())
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	log.Info("profiles served", "listen", listen)
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving profiles on ROUTER_DEBUG_LISTEN=%s: %w", listen, err)
	}
	return nil
}
