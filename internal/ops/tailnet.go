package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
)

// TailnetAccess decides which peers may read the router's status on the tailnet.
type TailnetAccess struct {
	// Allowed reports whether the peer with an address may. It is asked for each request, so
	// that a change of the tailnet's policy applies to open connections.
	Allowed func(client netip.Addr) bool
	// Fix tells a peer that may not how to get access.
	Fix string
}

// ServeTailnet serves the endpoints on ln, a listener on the tailnet, within [TailnetBounds] and
// until ctx ends, to the peers that may read them. [Config.Private] does not apply to them.
func (s *Server) ServeTailnet(ctx context.Context, ln net.Listener, access TailnetAccess) error {
	server, g := guarded(ln, TailnetBounds, refusals(s.cfg.Registerer, "tailnet"), http.MaxBytesHandler(access.guard(s.handler()), 0), writeTimeout, s.cfg.Logger)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(g); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on the tailnet, port %s: %w", ln.Addr(), err)
	}
	return nil
}

func (a TailnetAccess) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !a.Allowed(from.Addr().Unmap().WithZone("")) {
			http.Error(w, "this node may not read the router's status: "+a.Fix, http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), grantedKey{}, true)))
	})
}

// grantedKey is the key of a value in the context of requests from peers that may read everything.
type grantedKey struct{}

func isGranted(r *http.Request) bool { return r.Context().Value(grantedKey{}) != nil }
