package router

import (
	"context"
	"errors"

	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/slot"
)

// A slot's node outlives its task, except when the service becomes smaller. Then the node
// is removed: by Tailscale's API, if the credential is a client that may do so, or, with an
// auth key, logged out, after which it is still listed.

// departure finds out, while the drain proceeds, whether the service becomes smaller.
func (r *Router) departure(ctx context.Context) <-chan bool {
	out := make(chan bool, 1)
	if id := r.identity.Load(); id.Slot == nil {
		out <- false
		return out
	}
	go func() {
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

// leave ends the node and its identity: an ephemeral node logs out, and a slot is released.
func (r *Router) leave(ctx context.Context, departure <-chan bool) error {
	scaledIn := false
	select {
	case scaledIn = <-departure:
	case <-ctx.Done():
	}
	node, _ := r.node.Status()
	left := slot.Stays
	if scaledIn && r.lookUps.boot.CredentialIsKey() {
		if err := r.node.Logout(ctx); err != nil {
			r.log.Warn("logging out the node failed; it stays in the tailnet", "node", node.Name, "err", err)
		} else {
			left = slot.LoggedOut
			r.log.Warn("the service became smaller: node logged out; remove it in the admin console", "node", node.Name,
				"fix", "with an OAuth client of scope devices:core in place of the auth key the router removes it")
		}
	}
	err := r.closeNode(ctx)
	if scaledIn && left == slot.Stays {
		switch deleteErr := r.lookUps.boot.DeleteNode(ctx, node.ID); {
		case deleteErr == nil:
			left = slot.Removed
			r.log.Info("the service became smaller: node removed from the tailnet", "node", node.Name)
		case errors.Is(deleteErr, credential.ErrNoClient):
		default:
			r.log.Warn("removing the node of a service that became smaller failed; it stays in the tailnet", "node", node.Name, "err", deleteErr)
		}
	}
	r.releaseIdentity(left)
	return err
}
