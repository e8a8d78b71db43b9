package tailnettest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"

	"tailscale.com/tailcfg"
)

// C2N sends req from control to a node ("control to node") and returns its response, whose
// body need not be closed. Real control servers probe the nodes that serve a route this
// way.
func (t *Tailnet) C2N(ctx context.Context, node string, req *http.Request) (*http.Response, error) {
	var payload bytes.Buffer
	if err := req.Write(&payload); err != nil {
		return nil, fmt.Errorf("asking node %q: %w", node, err)
	}
	return t.c2n(ctx, node, payload.Bytes())
}

func (t *Tailnet) c2n(ctx context.Context, node string, payload []byte) (*http.Response, error) {
	t.mu.Lock()
	n := t.findLocked(node)
	var p *poll
	if n != nil {
		p = n.poll
	}
	t.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("asking node %q: not online", node)
	}

	type answer struct {
		res *http.Response
		err error
	}
	answered := make(chan answer, 1)
	token := rand.Text()
	t.base.C2NResponses.Store(token, func(res *http.Response) {
		// The body is part of the node's request, and ends with it.
		b, err := io.ReadAll(res.Body)
		res.Body = io.NopCloser(bytes.NewReader(b))
		answered <- answer{res, err}
	})
	defer t.base.C2NResponses.Delete(token)

	ping := &tailcfg.PingRequest{URL: "https://unused/c2n/" + token, Types: "c2n", Payload: payload}
	ended := p.ended
	select {
	case p.pings <- ping:
	case <-ended:
	case <-ctx.Done():
	}
	select {
	case a := <-answered:
		if a.err != nil {
			return nil, fmt.Errorf("asking node %q: %w", node, a.err)
		}
		return a.res, nil
	case <-ended:
		return nil, fmt.Errorf("asking node %q: it went offline", node)
	case <-ctx.Done():
		return nil, fmt.Errorf("asking node %q: %w", node, ctx.Err())
	}
}
