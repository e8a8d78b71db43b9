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

// A node's connection that was silent for probeAfter is probed, and closed if no answer
// comes within probeWithin. So a broken link is noticed within 10 s; real control servers
// take 10 to 20 s.
const (
	probeAfter  = 5 * time.Second
	probeWithin = 5 * time.Second
)

// publicHandler serves requests of nodes and browsers outside Noise.
func (t *Tailnet) publicHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /key", t.serveKey)
	mux.HandleFunc("/ts2021", t.serveNoise)
	mux.HandleFunc("GET /generate_204", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	// Tailscale's control publishes its DERP map at this path; others do not.
	mux.HandleFunc("GET /derpmap/default", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, t.derp.derpMap())
	})
	mux.HandleFunc("GET /auth/", t.serveAuth)
	mux.Handle("/test/", t.adminHandler())
	mux.Handle("/api/v2/", t.APIHandler())
	return mux
}

// noiseHandler serves requests over Noise of the node with this machine key. It answers
// unknown paths with 404, since testcontrol ends the process on requests that it does not
// know.
func (t *Tailnet) noiseHandler(machine key.MachinePublic) http.Handler {
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
	mux.HandleFunc("POST /machine/set-dns", forward)
	mux.HandleFunc("POST /c2n/", forward)
	return mux
}

// track returns a handler whose requests Close waits for. It refuses requests after Close.
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
		LegacyPublicKey: t.noiseKey.Public(), // must not be zero, but is not used
		PublicKey:       t.noiseKey.Public(),
	})
}

func (t *Tailnet) serveNoise(w http.ResponseWriter, r *http.Request) {
	conn, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, t.noiseKey, nil)
	if err != nil {
		t.log.Debug("accepting a node's connection", "err", err) // AcceptHTTP has answered
		return
	}
	defer conn.Close()
	defer context.AfterFunc(t.ctx, func() { conn.Close() })()

	server := http2.Server{ReadIdleTimeout: probeAfter, PingTimeout: probeWithin}
	server.ServeConn(conn, &http2.ServeConnOpts{
		// Not the request's context: that of a hijacked connection ends when this
		// function returns, not when the peer goes away.
		Context:    t.ctx,
		BaseConfig: &http.Server{Handler: t.track(t.noiseHandler(conn.Peer()))},
	})
}

// serveAuth serves the page on which a person logs a node in. Opening it logs the node in.
func (t *Tailnet) serveAuth(w http.ResponseWriter, r *http.Request) {
	if !t.base.CompleteAuth(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	fmt.Fprintln(w, "The node is logged in.")
}

// noiseContext carries the machine key of the node to testcontrol, which reads it from the
// context under a key of an unexported type. Only the type's name can be compared.
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
