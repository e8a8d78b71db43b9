package router

import (
	"context"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/slot"
)

// A slot's node outlives its task, except when the service becomes smaller. Then the node
// is removed: by Tailscale's API, if the credential is a client that may do so, or, with an
// auth key, logged out, after which it is still listed.

// Bounds of calls during a drain: of ECS, and for the end of a node that leaves.
const (
	scaleInWait = 5 * time.Second
	removalWait = 4 * time.Second
)

// departure finds out, while the drain proceeds, whether the service becomes smaller.
func (r *Router) departure(ctx context.Context) <-chan bool {
	out := make(chan bool, 1)
	if id := r.identity.Load(); id.Slot == nil {
		out <- false
		return out
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, scaleInWait)
		defer cancel()
		scaledIn, why, err := r.lookUps.boot.ScaledIn(ctx)
		switch {
		case err != nil:
			r.log.Warn("whether the service becomes smaller is unknown; keeping the node", "err", err)
		default:
			r.log.Info("why this task stops", "scale_in", scaledIn, "evidence", why)
		}
		out <- scaledIn && err == nil
	}()
	return out
}

// leave ends the node and its identity: an ephemeral node logs out, and a slot is released. If
// the engine may still run, the slot is not released: it becomes free when ECS reports the task
// as stopped.
func (r *Router) leave(ctx context.Context, departure <-chan bool) error {
	scaledIn := <-departure // within scaleInWait of the start of the drain
	node, _ := r.node.Status()
	left := slot.Stays
	if scaledIn && r.holdsKey(ctx) {
		logout, cancel := context.WithTimeout(ctx, removalWait)
		err := r.node.Logout(logout)
		cancel()
		if err != nil {
			r.log.Warn("logging out the node failed; it stays in the tailnet", "node", node.Name, "err", err)
		} else {
			left = slot.LoggedOut
			r.log.Warn("the service became smaller: node logged out; remove it in the admin console", "node", node.Name,
				"fix", "with an OAuth client of scope devices:core in place of the auth key the router removes it")
		}
	}
	if err := r.closeNode(ctx); err != nil {
		return err
	}
	if scaledIn && left == slot.Stays && r.removeNode(node.ID, node.Name) {
		left = slot.Removed
	}
	r.releaseIdentity(left)
	return nil
}

// holdsKey reports whether the credential is an auth key. A node with a valid identity may not
// have read it yet.
func (r *Router) holdsKey(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, removalWait)
	defer cancel()
	if err := r.lookUps.boot.LookAtCredential(ctx); err != nil {
		r.log.Warn("the credential cannot be read; the node stays in the tailnet", "err", err)
	}
	return r.lookUps.boot.CredentialIsKey()
}

// removeNode removes a node from the tailnet, and reports whether it did.
func (r *Router) removeNode(id, name string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), removalWait)
	defer cancel()
	if err := r.lookUps.boot.DeleteNode(ctx, id); err != nil {
		r.log.Warn("removing a node of a service that became smaller failed; it stays in the tailnet", "node", name, "err", err)
		return false
	}
	r.log.Info("the service became smaller: node removed from the tailnet", "node", name)
	return true
}

// surplusEvery is the period of removing nodes of slots that the service no longer has.
const surplusEvery = 5 * time.Minute

// removeSurplus removes the nodes of free slots that the service no longer has, until ctx ends:
// a deployment that makes the service smaller leaves them. It needs a client of Tailscale's API.
func (r *Router) removeSurplus(ctx context.Context) {
	s := r.identity.Load().Slot
	if s == nil {
		return
	}
	for backoff.Sleep(ctx, surplusEvery) {
		if r.lookUps.boot.CredentialIsKey() {
			continue
		}
		s.Retire(ctx, func(name, id string) bool { return r.removeNode(id, name) })
	}
}
