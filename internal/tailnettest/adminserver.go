package tailnettest

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"subnetrouter/internal/secret"
)

// adminHandler serves the requests of [Admin].
func (t *Tailnet) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /test/nodes", func(w http.ResponseWriter, r *http.Request) {
		after, _ := strconv.ParseUint(r.FormValue("after"), 10, 64)
		nodes, version, err := t.look(r.Context(), after)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, nodesBody{version, nodes})
	})
	mux.HandleFunc("POST /test/keys", handle(func(ctx context.Context, in keyBody) (any, error) {
		in.Key.Value = secret.String(in.Value)
		value, err := t.CreateKey(ctx, in.Key)
		return keyBody{Value: value.Reveal()}, err
	}))
	mux.HandleFunc("POST /test/revoke-key", handle(func(ctx context.Context, in keyBody) (any, error) {
		return nil, t.RevokeKey(ctx, secret.String(in.Value))
	}))
	mux.HandleFunc("POST /test/api", handle(func(ctx context.Context, in API) (any, error) {
		return nil, t.SetAPI(ctx, in)
	}))
	mux.HandleFunc("POST /test/policy", handle(func(ctx context.Context, in Policy) (any, error) {
		return nil, t.SetPolicy(ctx, in)
	}))
	mux.HandleFunc("POST /test/approve", handle(func(ctx context.Context, in nodeBody) (any, error) {
		return nil, t.Approve(ctx, in.Node, in.Routes...)
	}))
	mux.HandleFunc("POST /test/force-routes", handle(func(ctx context.Context, in nodeBody) (any, error) {
		return nil, t.ForceRoutes(ctx, in.Node, in.Routes...)
	}))
	for path, f := range map[string]func(context.Context, string) error{
		"approve-device": t.ApproveDevice,
		"expire":         t.ExpireNode,
		"delete":         t.DeleteNode,
	} {
		mux.HandleFunc("POST /test/"+path, handle(func(ctx context.Context, in nodeBody) (any, error) {
			return nil, f(ctx, in.Node)
		}))
	}
	mux.HandleFunc("POST /test/c2n/{node}", t.serveC2N)
	return mux
}

// serveC2N passes the HTTP request in the body to a node, and returns the node's HTTP
// response in the body.
func (t *Tailnet) serveC2N(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	res, err := t.c2n(r.Context(), r.PathValue("node"), payload)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer res.Body.Close()
	res.Write(w)
}

// handle returns a handler that calls f. Errors of f are the client's fault.
func handle[In any](f func(context.Context, In) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		err := readJSON(r, &in)
		var out any
		if err == nil {
			out, err = f(r.Context(), in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		writeJSON(w, out)
	}
}
