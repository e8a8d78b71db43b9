package tailnettest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"subnetrouter/internal/secret"
)

// member is a node and what the tailnet decided about it. What the node says of
// itself is in testcontrol's record of the same key.
type member struct {
	id         tailcfg.NodeID
	key        key.NodePublic
	machine    key.MachinePublic
	name       string
	tags       []string
	ephemeral  bool
	authorized bool
	expiry     time.Time // zero: never

	manual []netip.Prefix // approved by hand
	forced []netip.Prefix

	poll    *poll     // nil: offline
	updates int       // of the node that left the routes as they were, see AfterUpdates
	offline time.Time // since when, if it was online before

	// Kept up to date by update.
	reachable  bool // has ever told endpoints and home DERP
	advertised []netip.Prefix
	approved   []netip.Prefix
	primary    []netip.Prefix
}

func (n *member) expired(now time.Time) bool { return !n.expiry.IsZero() && !now.Before(n.expiry) }

// eligible reports whether n may be a primary at all, its routes and its
// connection aside.
func (n *member) eligible(now time.Time) bool { return n.authorized && !n.expired(now) }

func (t *Tailnet) byKeyLocked(k key.NodePublic) *member {
	if n := t.standIns[k]; n != nil {
		return n
	}
	for _, n := range t.nodes {
		if n.key == k {
			return n
		}
	}
	return nil
}

func (t *Tailnet) byIDLocked(id tailcfg.NodeID) *member {
	for _, n := range t.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// uniqueNameLocked gives the second node with a host name the suffix -1.
func (t *Tailnet) uniqueNameLocked(hostname string) string {
	name := hostname
	for i := 1; slices.ContainsFunc(t.nodes, func(n *member) bool { return n.name == name }); i++ {
		name = fmt.Sprintf("%s-%d", hostname, i)
	}
	return name
}

// removeLocked makes n a node that never was, whose key is of no use.
func (t *Tailnet) removeLocked(n *member) {
	t.nodes = slices.DeleteFunc(t.nodes, func(m *member) bool { return m == n })
	t.gone[n.key] = true
	if t.ownNode != AfterUpdates {
		n.endPoll()
	}
	t.log.Info("node removed", "node", n.name)
}

// updateLocked draws all conclusions from what has changed, and wakes all who
// wait for a change. It follows every change of state.
func (t *Tailnet) updateLocked() {
	now := time.Now()
	var candidates []candidate
	for _, n := range t.nodes {
		said := t.base.Node(n.key)
		n.reachable = n.reachable || (len(said.Endpoints) > 0 && said.HomeDERP != 0)
		n.advertised = nil
		if said.Hostinfo.Valid() {
			n.advertised = said.Hostinfo.RoutableIPs().AsSlice()
		}
		n.approved = slices.Clone(n.forced)
		for _, route := range n.advertised {
			if slices.Contains(n.manual, route) || t.policy.autoApproves(n.tags, n.reachable, route) {
				n.approved = append(n.approved, route)
			}
		}
		sortPrefixes(n.approved)
		n.approved = slices.Compact(n.approved)
		n.primary = nil
		if n.eligible(now) {
			candidates = append(candidates, candidate{n.id, n.approved, n.poll != nil, n.offline})
		}
	}

	primary, again := elect(now, t.policy.Failover, candidates, t.primary)
	for route, id := range primary {
		n := t.byIDLocked(id)
		n.primary = append(n.primary, route)
		if t.primary[route] != id {
			t.log.Info("primary elected", "route", route, "node", n.name)
		}
	}
	t.primary = primary
	for _, n := range t.nodes {
		sortPrefixes(n.primary)
	}
	if t.reelect != nil {
		t.reelect.Stop()
		t.reelect = nil
	}
	if !again.IsZero() && !t.closed {
		t.reelect = time.AfterFunc(time.Until(again), t.update)
	}

	t.version++
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *Tailnet) update() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.updateLocked()
}

func sortPrefixes(p []netip.Prefix) { slices.SortFunc(p, netip.Prefix.Compare) }

func (t *Tailnet) nodesLocked() []Node {
	now := time.Now()
	nodes := make([]Node, 0, len(t.nodes))
	for _, n := range t.nodes {
		said := t.base.Node(n.key)
		out := Node{
			ID:         strconv.FormatInt(int64(n.id), 10),
			Name:       n.name,
			Key:        n.key.String(),
			Tags:       slices.Clone(n.tags),
			Advertised: slices.Clone(n.advertised),
			Approved:   slices.Clone(n.approved),
			Primary:    slices.Clone(n.primary),
			Online:     n.poll != nil,
			Ephemeral:  n.ephemeral,
			Authorized: n.authorized,
			Expired:    n.expired(now),
			Endpoints:  said.Endpoints,
			HomeDERP:   said.HomeDERP,
		}
		if said.Hostinfo.Valid() {
			out.Hostname = said.Hostinfo.Hostname()
		}
		for _, p := range said.Addresses {
			out.IPs = append(out.IPs, p.Addr())
		}
		nodes = append(nodes, out)
	}
	return nodes
}

// Nodes implements [Control]. It never fails.
func (t *Tailnet) Nodes(context.Context) ([]Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodesLocked(), nil
}

// Await implements [Control], without polling.
func (t *Tailnet) Await(ctx context.Context, what string, cond func([]Node) bool) error {
	return await(ctx, t.look, what, cond)
}

func (t *Tailnet) look(ctx context.Context, after uint64) ([]Node, uint64, error) {
	for {
		t.mu.Lock()
		nodes, version, changed := t.nodesLocked(), t.version, t.changed
		t.mu.Unlock()
		if version > after {
			return nodes, version, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-t.ctx.Done():
			return nil, 0, errClosed
		}
	}
}

// CreateKey implements [Control]. A Value that is in use already is replaced.
func (t *Tailnet) CreateKey(_ context.Context, k Key) (secret.String, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addKeyLocked(k), nil
}

func (t *Tailnet) addKeyLocked(k Key) secret.String {
	if k.Value == "" {
		k.Value = newKeyValue()
	}
	t.keys[k.Value.Reveal()] = &authKey{Key: k}
	return k.Value
}

// RevokeKey makes an auth key worthless. Nodes that used it stay.
func (t *Tailnet) RevokeKey(_ context.Context, value secret.String) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.keys[value.Reveal()]
	if k == nil {
		return fmt.Errorf("revoking auth key %s: no such key", keyID(value.Reveal()))
	}
	k.Revoked = true
	return nil
}

// SpendKey uses an auth key up, as a node would that is gone since.
func (t *Tailnet) SpendKey(value secret.String) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.keys[value.Reveal()]; k != nil {
		k.usedBy = reserved
	}
}

// SetPolicy replaces the policy. Routes are approved and elected anew.
func (t *Tailnet) SetPolicy(_ context.Context, p Policy) error {
	if err := p.check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policy = p
	t.updateLocked()
	return nil
}

// Approve implements [Control].
func (t *Tailnet) Approve(_ context.Context, node string, routes ...netip.Prefix) error {
	return t.change("approving routes", node, func(n *member) { n.manual = append(n.manual, routes...) })
}

// ForceRoutes hands a node routes that it never advertised, which a control
// server that is wrong or hostile could do.
func (t *Tailnet) ForceRoutes(_ context.Context, node string, routes ...netip.Prefix) error {
	return t.change("forcing routes", node, func(n *member) { n.forced = slices.Clone(routes) })
}

// ApproveDevice lets a node in that waits for it.
func (t *Tailnet) ApproveDevice(_ context.Context, node string) error {
	return t.change("approving the device", node, func(n *member) { n.authorized = true })
}

// ExpireNode implements [Control].
func (t *Tailnet) ExpireNode(_ context.Context, node string) error {
	return t.change("expiring the node key", node, func(n *member) { n.expiry = time.Now() })
}

// ExpireNodeAt lets a node's key end at that time.
func (t *Tailnet) ExpireNodeAt(_ context.Context, node string, at time.Time) error {
	return t.change("setting the end of the node key", node, func(n *member) { n.expiry = at })
}

// DeleteNode implements [Control]. The node finds no answer but "node not
// found" from then on, and goes on with the last it heard.
func (t *Tailnet) DeleteNode(_ context.Context, node string) error {
	return t.change("deleting the node", node, t.removeLocked)
}

// change applies f to the node with this name, ID or node key.
func (t *Tailnet) change(doing, which string, f func(*member)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.findLocked(which)
	if n == nil {
		return fmt.Errorf("%s: no node %q", doing, which)
	}
	f(n)
	t.updateLocked()
	return nil
}

func (t *Tailnet) findLocked(which string) *member {
	for _, n := range t.nodes {
		if which == n.name || which == strconv.FormatInt(int64(n.id), 10) || which == n.key.String() {
			return n
		}
	}
	return nil
}
