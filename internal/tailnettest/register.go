package tailnettest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// maxRequest bounds a request in bytes. Tailscale clients send no larger ones.
const maxRequest = 1 << 20

func (t *Tailnet) serveRegister(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	var req tailcfg.RegisterRequest
	if err := readJSON(r, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if req.Version == 0 || req.NodeKey.IsZero() || req.Hostinfo == nil {
		http.Error(w, "version, node key or host information missing", http.StatusBadRequest)
		return
	}
	if fail := t.nextAPI(Register); fail.Status != 0 {
		if fail.RetryAfter != "" {
			w.Header().Set("Retry-After", fail.RetryAfter)
		}
		http.Error(w, fail.Message, fail.Status)
		return
	}
	if t.onRegister != nil {
		if res := t.onRegister(&req); res != nil {
			writeJSON(w, res)
			return
		}
	}
	res, err := t.register(r.Context(), &req, machine)
	switch {
	case errors.Is(err, errBase):
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case err != nil:
		writeJSON(w, &tailcfg.RegisterResponse{Error: err.Error()})
	default:
		writeJSON(w, res)
	}
}

// register logs a node in or out. Its errors are sent to the node, except errBase.
func (t *Tailnet) register(ctx context.Context, req *tailcfg.RegisterRequest, machine key.MachinePublic) (*tailcfg.RegisterResponse, error) {
	t.mu.Lock()
	terms, res, err := t.termsLocked(req, machine)
	t.mu.Unlock()
	if err != nil || res != nil {
		return res, err
	}

	res, err = t.baseRegister(ctx, req, machine)
	if err != nil {
		t.releaseKey(req)
		return nil, err
	}
	if res.AuthURL != "" {
		if terms == nil {
			return res, nil // a person has to log the node in
		}
		// A node with a valid key needs no person: log it in.
		t.base.CompleteAuth(res.AuthURL)
		res.AuthURL = ""
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.admitLocked(req, machine, terms)
	res.MachineAuthorized = n.authorized
	t.updateLocked()
	return res, nil
}

// terms are the properties with which a node becomes or stays a member.
type terms struct {
	tags          []string
	ephemeral     bool
	preauthorized bool
}

// termsLocked decides on a request. It returns the terms, or the final response, or neither
// if the node is new and has no key. It removes from req the old node key, if testcontrol
// must not see it.
func (t *Tailnet) termsLocked(req *tailcfg.RegisterRequest, machine key.MachinePublic) (*terms, *tailcfg.RegisterResponse, error) {
	now := time.Now()
	mustRenew := &tailcfg.RegisterResponse{NodeKeyExpired: true}
	n := t.byKeyLocked(req.NodeKey)
	if n != nil && n.machine != machine {
		return nil, nil, errors.New("node key belongs to another machine")
	}
	if !req.Expiry.IsZero() && !now.Before(req.Expiry) {
		t.logoutLocked(n, now)
		return nil, mustRenew, nil
	}
	// testcontrol would reuse the ID and the addresses of a removed node. With a new key
	// it is a new node.
	if t.gone[req.NodeKey] || (n != nil && n.expired(now)) {
		return nil, mustRenew, nil
	}
	old := t.byKeyLocked(req.OldNodeKey)
	if old == nil || old.machine != machine {
		req.OldNodeKey = key.NodePublic{}
	}

	if req.Auth != nil && req.Auth.AuthKey != "" {
		id := tailcfg.NodeID(0)
		if n != nil {
			id = n.id
		}
		k, err := t.checkKey(req.Auth.AuthKey, id, now)
		if err != nil {
			return nil, nil, err
		}
		tags, err := k.checkTags(req.Hostinfo.RequestTags)
		if err != nil {
			return nil, nil, err
		}
		if k.usedBy == 0 {
			k.usedBy = usedByPending
		}
		return &terms{tags, k.Ephemeral || req.Ephemeral, k.Preauthorized}, nil, nil
	}
	if n != nil {
		return &terms{n.tags, n.ephemeral, n.authorized}, nil, nil
	}
	return nil, nil, nil
}

func (t *Tailnet) logoutLocked(n *member, now time.Time) {
	switch {
	case n == nil:
		return
	case n.ephemeral:
		t.removeLocked(n)
	default:
		n.expiry = now
		t.log.Info("node logged out", "node", n.name)
	}
	t.updateLocked()
}

// admitLocked makes a node that testcontrol has registered a member.
func (t *Tailnet) admitLocked(req *tailcfg.RegisterRequest, machine key.MachinePublic, on *terms) *member {
	if on == nil { // a person logged it in
		on = &terms{tags: req.Hostinfo.RequestTags, ephemeral: req.Ephemeral}
	}
	n := t.byKeyLocked(req.NodeKey)
	if old := t.byKeyLocked(req.OldNodeKey); n == nil && old != nil {
		n = old
		t.gone[n.key] = true
		n.key, n.expiry = req.NodeKey, time.Time{}
		n.endPoll()
		t.log.Info("node key rotated", "node", n.name)
	}
	if n == nil {
		n = &member{
			id:      t.base.Node(req.NodeKey).ID,
			key:     req.NodeKey,
			machine: machine,
			name:    t.uniqueNameLocked(req.Hostinfo.Hostname),
		}
		n.authorized = on.preauthorized || !t.policy.RequireDeviceApproval
		t.nodes = append(t.nodes, n)
		t.log.Info("node registered", "node", n.name, "tags", on.tags, "ephemeral", on.ephemeral)
	}
	n.tags, n.ephemeral = slices.Clone(on.tags), on.ephemeral
	t.setKeyUserLocked(req, n.id)
	return n
}

// setKeyUserLocked sets the user of a key that is usedByPending; 0 makes it unused.
func (t *Tailnet) setKeyUserLocked(req *tailcfg.RegisterRequest, id tailcfg.NodeID) {
	if req.Auth == nil {
		return
	}
	if k := t.keys[req.Auth.AuthKey]; k != nil && k.usedBy == usedByPending {
		k.usedBy = id
	}
}

// releaseKey makes the key of a failed registration unused.
func (t *Tailnet) releaseKey(req *tailcfg.RegisterRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setKeyUserLocked(req, 0)
}

// errBase marks failures of testcontrol.
var errBase = errors.New("registering at testcontrol")

// baseRegister registers a node at testcontrol, which assigns ID, addresses and user, and
// waits for a person to log the node in.
func (t *Tailnet) baseRegister(ctx context.Context, req *tailcfg.RegisterRequest, machine key.MachinePublic) (*tailcfg.RegisterResponse, error) {
	rec, err := t.forward(ctx, "/machine/register", req, machine)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBase, err)
	}
	res := new(tailcfg.RegisterResponse)
	if err := json.Unmarshal(rec.Body.Bytes(), res); err != nil {
		return nil, fmt.Errorf("%w: %w", errBase, err)
	}
	return res, nil
}

// forward sends a request to testcontrol and returns the response.
func (t *Tailnet) forward(ctx context.Context, path string, body any, machine key.MachinePublic) (*httptest.ResponseRecorder, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(noiseContext{ctx, machine}, http.MethodPost, path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	t.base.ServeHTTP(rec, r)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if rec.Code != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d: %s", rec.Code, bytes.TrimSpace(rec.Body.Bytes()))
	}
	return rec, nil
}

func readJSON(r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxRequest))
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parsing the request: %w", err)
	}
	return nil
}
