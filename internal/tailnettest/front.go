package tailnettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var errClosed = errors.New("the tailnet is closed")

// How long a node's connection may be silent before it is probed, and how long
// the answer may take. Together they bound how late a cut link is noticed; real
// control servers need 10 to 20 seconds.
const (
	probeAfter = 5 * time.Second
	probeFor   = 5 * time.Second
)

// outer serves what nodes and people ask for in the clear.
func (t *Tailnet) outer() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /key", t.serveKey)
	mux.HandleFunc("/ts2021", t.serveNoise)
	mux.HandleFunc("GET /generate_204", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	// As Tailscale's, and no other, tells its relays to anybody.
	mux.HandleFunc("GET /derpmap/default", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, t.relay.derpMap())
	})
	mux.HandleFunc("GET /auth/", t.serveAuth)
	mux.Handle("/test/", t.adminHandler())
	mux.Handle("/api/v2/", t.APIHandler())
	return mux
}

// inner serves what the node with this machine key asks for over Noise. All
// else is not found: testcontrol, which may get to see only what it knows,
// ends the process on anything else.
func (t *Tailnet) inner(machine key.MachinePublic) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /machine/register", func(w http.ResponseWriter, r *http.Request) {
		t.serveRegister(w, r, machine)
	})
	mux.HandleFunc("POST /machine/map", func(w http.ResponseWriter, r *http.Request) {
		t.serveMap(w, r, machine)
	})
	forward := func(w http.ResponseWriter, r *http.Request) {
		t.base.ServeHTTP(w, r.WithContext(noiseContext{r.Context(), machine}))
	}
	mux.HandleFunc("POST /machine/update-health", forward)
	mux.HandleFunc("POST /c2n/", forward)
	return mux
}

// track lets Close wait for the requests in h, and refuses those after it.
func (t *Tailnet) track(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.mu.Lock()
		closed := t.closed
		if !closed {
			t.handlers.Add(1)
		}
		t.mu.Unlock()
		if closed {
			http.Error(w, errClosed.Error(), http.StatusServiceUnavailable)
			return
		}
		defer t.handlers.Done()
		h.ServeHTTP(w, r)
	})
}

func (t *Tailnet) serveKey(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, &tailcfg.OverTLSPublicKeyResponse{
		LegacyPublicKey: t.noiseKey.Public(), // must not be zero, else is not used
		PublicKey:       t.noiseKey.Public(),
	})
}

func (t *Tailnet) serveNoise(w http.ResponseWriter, r *http.Request) {
	conn, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, t.noiseKey, nil)
	if err != nil {
		t.log.Debug("accepting a node's connection", "err", err) // answered already
		return
	}
	defer conn.Close()
	defer context.AfterFunc(t.ctx, func() { conn.Close() })()

	server := http2.Server{ReadIdleTimeout: probeAfter, PingTimeout: probeFor}
	server.ServeConn(conn, &http2.ServeConnOpts{
		// Not the request's context: that of a connection that was taken over
		// is not done when the peer goes away, but when we return.
		Context:    t.ctx,
		BaseConfig: &http.Server{Handler: t.track(t.inner(conn.Peer()))},
	})
}

// serveAuth stands for the page on which a person logs a node in: to open it
// is enough.
func (t *Tailnet) serveAuth(w http.ResponseWriter, r *http.Request) {
	if !t.base.CompleteAuth(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	fmt.Fprintln(w, "The node is logged in.")
}

// noiseContext carries the machine key of the node to testcontrol, which takes
// it from its own connections out of the context, under a key of an unexported
// type. The name of that type is the only thing of it that can be had.
type noiseContext struct {
	context.Context
	machine key.MachinePublic
}

func (c noiseContext) Value(k any) any {
	if fmt.Sprintf("%T", k) == "testcontrol.peerMachinePublicContextKey" {
		return c.machine
	}
	return c.Context.Value(k)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
