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

// Larger requests are not from a Tailscale client.
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

// register logs a node in or out. Its errors are for the node, but for errBase.
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
		// Whoever has a good key need not: log in on their behalf.
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

// terms on which a node becomes or stays a member.
type terms struct {
	tags          []string
	ephemeral     bool
	preauthorized bool
}

// termsLocked decides on a request: either the terms, or nil when the node has
// no key to show, or the final answer. It changes req to what testcontrol may
// see of it.
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
	// testcontrol would bring back the ID and the addresses of a node that is
	// gone; a new key makes it a new node.
	if t.gone[req.NodeKey] || (n != nil && n.expired(now)) {
		return nil, mustRenew, nil
	}
	old := t.byKeyLocked(req.OldNodeKey)
	if old == nil || old.machine != machine {
		req.OldNodeKey, old = key.NodePublic{}, nil
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
			k.usedBy = reserved
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

// admitLocked makes the node that testcontrol has just registered a member.
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
	t.settleKeyLocked(req, n.id)
	return n
}

// settleKeyLocked notes who used a reserved key; 0 is nobody after all.
func (t *Tailnet) settleKeyLocked(req *tailcfg.RegisterRequest, id tailcfg.NodeID) {
	if req.Auth == nil {
		return
	}
	if k := t.keys[req.Auth.AuthKey]; k != nil && k.usedBy == reserved {
		k.usedBy = id
	}
}

func (t *Tailnet) releaseKey(req *tailcfg.RegisterRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settleKeyLocked(req, 0)
}

// errBase marks an answer of testcontrol that is none.
var errBase = errors.New("registering at testcontrol")

// baseRegister lets testcontrol do its part: identity, addresses, user, and
// waiting for a person to log the node in.
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

// forward hands a request to testcontrol and holds back its answer.
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
