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

// member is a node, with the tailnet's decisions about it. The node's own reports are in
// testcontrol's record of the same key. Tailnet.mu covers all fields.
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
	updates int       // updates of the node that did not change its routes, see AfterUpdates
	offline time.Time // when it went offline; zero if it never was online

	// Set by updateLocked.
	wasReachable bool // it has reported endpoints and home DERP
	advertised   []netip.Prefix
	approved     []netip.Prefix
	primary      []netip.Prefix
	exit         []netip.Prefix // those of an exit node, which each approved node has: the client chooses one
}

func (n *member) expired(now time.Time) bool { return !n.expiry.IsZero() && !now.Before(n.expiry) }

// eligible reports whether n may be a primary, regardless of its routes and its
// connection.
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

// uniqueNameLocked returns a unique name: the second node with a host name gets the suffix
// -1.
func (t *Tailnet) uniqueNameLocked(hostname string) string {
	name := hostname
	for i := 1; slices.ContainsFunc(t.nodes, func(n *member) bool { return n.name == name }); i++ {
		name = fmt.Sprintf("%s-%d", hostname, i)
	}
	return name
}

// removeLocked removes n, and makes its node key invalid.
func (t *Tailnet) removeLocked(n *member) {
	t.nodes = slices.DeleteFunc(t.nodes, func(m *member) bool { return m == n })
	t.gone[n.key] = true
	if t.ownNode != AfterUpdates {
		n.endPoll()
	}
	t.log.Info("node removed", "node", n.name)
}

// updateLocked recomputes approved and primary routes, and wakes all goroutines that wait
// for a change. It must be called after every change of state.
func (t *Tailnet) updateLocked() {
	now := time.Now()
	var candidates []candidate
	for _, n := range t.nodes {
		reported := t.base.Node(n.key)
		n.wasReachable = n.wasReachable || (len(reported.Endpoints) > 0 && reported.HomeDERP != 0)
		n.advertised = nil
		if reported.Hostinfo.Valid() {
			n.advertised = reported.Hostinfo.RoutableIPs().AsSlice()
		}
		n.approved = slices.Clone(n.forced)
		for _, route := range n.advertised {
			if slices.Contains(n.manual, route) || t.policy.autoApproves(n.tags, n.wasReachable, route) {
				n.approved = append(n.approved, route)
			}
		}
		sortPrefixes(n.approved)
		n.approved = slices.Compact(n.approved)
		n.primary, n.exit = nil, nil
		if n.eligible(now) {
			n.exit = slices.DeleteFunc(slices.Clone(n.approved), isSubnet)
			candidates = append(candidates, candidate{n.id, slices.DeleteFunc(slices.Clone(n.approved), isExit), n.poll != nil, n.offline})
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
		reported := t.base.Node(n.key)
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
			Endpoints:  reported.Endpoints,
			HomeDERP:   int(reported.HomeDERP),
		}
		if reported.Hostinfo.Valid() {
			out.Hostname = reported.Hostinfo.Hostname()
		}
		for _, p := range reported.Addresses {
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

// CreateKey implements [Control]. It replaces a key with the same Value.
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

// RevokeKey revokes an auth key. Nodes that have used it stay.
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

// SpendKey marks an auth key as used, by a node that has since been removed.
func (t *Tailnet) SpendKey(value secret.String) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.keys[value.Reveal()]; k != nil {
		k.usedBy = usedByPending
	}
}

// SetPolicy replaces the policy, and reevaluates approved and primary routes.
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

// ForceRoutes gives a node routes that it never advertised, as a faulty or hostile control
// server could.
func (t *Tailnet) ForceRoutes(_ context.Context, node string, routes ...netip.Prefix) error {
	return t.change("forcing routes", node, func(n *member) { n.forced = slices.Clone(routes) })
}

// ApproveDevice approves a node that waits for device approval.
func (t *Tailnet) ApproveDevice(_ context.Context, node string) error {
	return t.change("approving the device", node, func(n *member) { n.authorized = true })
}

// ExpireNode implements [Control].
func (t *Tailnet) ExpireNode(_ context.Context, node string) error {
	return t.change("expiring the node key", node, func(n *member) { n.expiry = time.Now() })
}

// ExpireNodeAt sets the time at which a node's key expires.
func (t *Tailnet) ExpireNodeAt(_ context.Context, node string, at time.Time) error {
	return t.change("setting the expiry of the node key", node, func(n *member) { n.expiry = at })
}

// DeleteNode implements [Control]. All requests of the node are answered "node not found"
// from then on, and the node keeps its last netmap.
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
