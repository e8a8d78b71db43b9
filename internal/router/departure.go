package router

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/slot"
)

// Two things outlive a task, except when its service becomes smaller:
//
//   - a slot's node. It is removed: by Tailscale's API, if the credential is a client that may do
//     so, or, with an auth key, logged out, after which it is still listed;
//   - the entries in the tailnet's split DNS. The last router of the service removes them, unless
//     another router serves the nameserver.

// Bounds of calls during a drain: of ECS, for the end of a node that leaves, and for the removal
// of split DNS, which reads, writes and reads again.
const (
	scaleInWait    = 5 * time.Second
	removalWait    = 4 * time.Second
	dnsRemovalWait = 10 * time.Second
)

// departure finds out, while the drain proceeds, whether the service becomes smaller, if
// anything depends on it.
func (r *Router) departure(ctx context.Context) <-chan bootstrap.ScaleIn {
	out := make(chan bootstrap.ScaleIn, 1)
	registers := r.cfg.DNSRegister && r.cfg.MetadataURI != ""
	if id := r.identity.Load(); id.Slot == nil && !registers {
		out <- bootstrap.ScaleIn{}
		return out
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, scaleInWait)
		defer cancel()
		scaleIn, err := r.lookUps.boot.ScaledIn(ctx)
		switch {
		case err != nil:
			r.log.Warn("whether the service becomes smaller is unknown; keeping its node and its split DNS", "err", err)
		default:
			r.log.Info("why this task stops", "scale_in", scaleIn.Smaller, "last", scaleIn.Last, "evidence", scaleIn.Why)
		}
		out <- scaleIn
	}()
	return out
}

// leave ends the node and its identity: an ephemeral node logs out, and a slot is released. If
// the engine may still run, the slot is not released: it becomes free when ECS reports the task
// as stopped. The last router of a service removes its split DNS meanwhile. withdrawn is whether
// control has taken the routes from this node.
func (r *Router) leave(ctx context.Context, departure <-chan bootstrap.ScaleIn, withdrawn bool) error {
	scaleIn := <-departure // within scaleInWait of the start of the drain
	removed := r.removeDNS(ctx, scaleIn.Last, withdrawn)
	defer func() { <-removed }()
	removesNode := scaleIn.Smaller && r.identity.Load().Slot != nil
	node, _ := r.node.Status()
	left := slot.Stays
	if removesNode && r.holdsKey(ctx) {
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
	if removesNode && left == slot.Stays && r.removeNode(node.ID, node.Name) {
		left = slot.Removed
	}
	r.releaseIdentity(left)
	return nil
}

// removeDNS begins the removal of the VPC's resolver from split DNS, if this is the last router of the
// service and no other router serves the resolver: they share the entries. The channel closes at the
// end. Nothing else waits for the removal or fails with it.
func (r *Router) removeDNS(ctx context.Context, last, withdrawn bool) <-chan struct{} {
	done := make(chan struct{})
	resolver, _ := r.lookUps.dns()
	if !r.cfg.DNSRegister || !last || resolver == nil || !resolver.Route.IsValid() || r.servesStill(resolver.Through, withdrawn) {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, dnsRemovalWait)
		defer cancel()
		from, err := r.dns.remove(ctx, resolver.Through)
		if err != nil {
			r.log.Warn("removing split DNS failed; its entries stay until you remove them", "err", err,
				"fix", dnsRemovalFix(resolver.Through))
			return
		}
		r.log.Info("the service ends: split DNS removed", "nameserver", resolver.Through.String(), "domains", from)
	}()
	return done
}

func dnsRemovalFix(nameserver netip.Addr) string {
	return fmt.Sprintf("in the admin console, under DNS, remove the nameserver %s", nameserver)
}

// servesStill reports whether another router serves the nameserver, as far as this one knows, and
// logs why the entries stay. It is called after this router's routes were withdrawn, so of routers that
// stop together, the last to withdraw finds none. Without a confirmed withdrawal, the netmap may
// precede that of a router which has taken over.
func (r *Router) servesStill(nameserver netip.Addr, withdrawn bool) bool {
	other, known := r.node.PeerServing(nameserver)
	switch {
	case !withdrawn || !known:
		r.log.Warn("the service ends, but whether another router serves the VPC's resolver is unknown: split DNS stays",
			"fix", "unless one does, "+dnsRemovalFix(nameserver))
	case other != "":
		r.log.Info("the service ends, but another router serves the VPC's resolver: split DNS stays", "router", other)
	default:
		return false
	}
	return true
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
