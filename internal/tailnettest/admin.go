package tailnettest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"subnetrouter/internal/secret"
)

// Admin drives a [Tailnet] that runs in another process, network namespace or
// container, over HTTP. Its methods correspond to those of Tailnet.
type Admin struct {
	URL    string       // the tailnet's ControlURL
	Client *http.Client // nil: one without proxies
}

// direct is the default client of an Admin. It keeps no connections, so that tests leave
// none behind.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Bodies of the admin API, one JSON object each.
type (
	nodesBody struct {
		Version uint64
		Nodes   []Node
	}
	// keyBody contains the value of the key in plain text, unlike the JSON of a Key.
	keyBody struct {
		Key
		Value string
	}
	nodeBody struct {
		Node   string
		Routes []netip.Prefix
	}
)

// ControlURL implements [Control].
func (a *Admin) ControlURL() string { return a.URL }

// CreateKey implements [Control].
func (a *Admin) CreateKey(ctx context.Context, k Key) (secret.String, error) {
	var out keyBody
	err := a.post(ctx, "/test/keys", keyBody{Key: k, Value: k.Value.Reveal()}, &out)
	return secret.String(out.Value), err
}

// RevokeKey is [Tailnet.RevokeKey].
func (a *Admin) RevokeKey(ctx context.Context, value secret.String) error {
	return a.post(ctx, "/test/revoke-key", keyBody{Value: value.Reveal()}, nil)
}

// SetPolicy is [Tailnet.SetPolicy].
func (a *Admin) SetPolicy(ctx context.Context, p Policy) error {
	return a.post(ctx, "/test/policy", p, nil)
}

// SetAPI is [Tailnet.SetAPI].
func (a *Admin) SetAPI(ctx context.Context, to API) error {
	return a.post(ctx, "/test/api", to, nil)
}

// Nodes implements [Control].
func (a *Admin) Nodes(ctx context.Context) ([]Node, error) {
	nodes, _, err := a.look(ctx, 0)
	return nodes, err
}

// Await implements [Control]. The server answers when the list of nodes has changed.
func (a *Admin) Await(ctx context.Context, what string, cond func([]Node) bool) error {
	return await(ctx, a.look, what, cond)
}

// Approve implements [Control].
func (a *Admin) Approve(ctx context.Context, node string, routes ...netip.Prefix) error {
	return a.post(ctx, "/test/approve", nodeBody{node, routes}, nil)
}

// ForceRoutes is [Tailnet.ForceRoutes].
func (a *Admin) ForceRoutes(ctx context.Context, node string, routes ...netip.Prefix) error {
	return a.post(ctx, "/test/force-routes", nodeBody{node, routes}, nil)
}

// ApproveDevice is [Tailnet.ApproveDevice].
func (a *Admin) ApproveDevice(ctx context.Context, node string) error {
	return a.post(ctx, "/test/approve-device", nodeBody{Node: node}, nil)
}

// ExpireNode implements [Control].
func (a *Admin) ExpireNode(ctx context.Context, node string) error {
	return a.post(ctx, "/test/expire", nodeBody{Node: node}, nil)
}

// DeleteNode implements [Control].
func (a *Admin) DeleteNode(ctx context.Context, node string) error {
	return a.post(ctx, "/test/delete", nodeBody{Node: node}, nil)
}

// C2N is [Tailnet.C2N].
func (a *Admin) C2N(ctx context.Context, node string, req *http.Request) (*http.Response, error) {
	var payload bytes.Buffer
	if err := req.Write(&payload); err != nil {
		return nil, fmt.Errorf("asking node %q: %w", node, err)
	}
	b, err := a.do(ctx, http.MethodPost, "/test/c2n/"+node, &payload)
	if err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), req)
	if err != nil {
		return nil, fmt.Errorf("asking node %q: %w", node, err)
	}
	return res, nil
}

func (a *Admin) look(ctx context.Context, after uint64) ([]Node, uint64, error) {
	b, err := a.do(ctx, http.MethodGet, "/test/nodes?after="+strconv.FormatUint(after, 10), nil)
	if err != nil {
		return nil, 0, err
	}
	var out nodesBody
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, 0, fmt.Errorf("parsing the list of nodes: %w", err)
	}
	return out.Nodes, out.Version, nil
}

func (a *Admin) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	b, err := a.do(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// do sends a request and returns the body of the response. The body of a failed one is the
// tailnet's own error, and becomes the error.
func (a *Admin) do(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.URL+path, body)
	if err != nil {
		return nil, err
	}
	client := a.Client
	if client == nil {
		client = direct
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the response to %s: %w", path, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(string(b)))
	}
	return b, nil
}
