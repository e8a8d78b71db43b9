package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/slot"
)

// ErrIdentityLost is the error of [Router.Run] if the process must stop using its identity at
// once, because another task may use it. The caller ends the process without any further
// packet; what replaces it starts from the beginning.
var ErrIdentityLost = errors.New("the node's identity is lost")

// startNode opens the node's identity, which may take as long as AWS does not answer or
// other tasks hold all slots, and starts the engine.
func (r *Router) startNode(ctx context.Context) error {
	id, err := r.lookUps.boot.Identity(ctx)
	if err != nil {
		return err
	}
	r.identity.Store(id)
	if s := id.Slot; s != nil {
		r.log.Info("identity opened", "slot", s.Number(), "slots", s.Slots, "service", s.Service, "imported", s.Imported())
	}
	return r.node.Start(r.forward, r.peers, id.State)
}

// keepIdentity renews the lease of a slot, and stores the node's name in it, until ctx ends.
func (r *Router) keepIdentity(ctx context.Context) error {
	id := r.identity.Load()
	go r.describeSlot(ctx)
	go r.removeSurplus(ctx)
	id.Run(ctx)
	return nil
}

// describeSlot stores the node's name in its slot when it changes, so that people who look at
// the table, or at another router, know whose slot it is.
func (r *Router) describeSlot(ctx context.Context) {
	s := r.identity.Load().Slot
	if s == nil {
		return
	}
	const retryEvery = time.Minute
	stored := ""
	for {
		node, changed := r.node.Status()
		if node.Running() && node.Name != stored {
			if s.Describe(ctx, node.Name, node.ID) == nil {
				stored = node.Name
			}
		}
		select {
		case <-changed:
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return
		}
		if !backoff.Sleep(ctx, time.Second) {
			return
		}
	}
}

// ownHostname returns the hostname of this router: routers that share a table have the number
// of their slot in it.
func (r *Router) ownHostname(hostname string) string {
	id := r.identity.Load()
	if id == nil || id.Slot == nil {
		return hostname
	}
	suffix := fmt.Sprintf("-%d", id.Slot.Number())
	const label = 63 // bytes in a DNS label
	return hostname[:min(len(hostname), label-len(suffix))] + suffix
}

// describeIdentity returns the identity for /status.
func (r *Router) describeIdentity() ops.Identity {
	out := ops.Identity{State: r.cfg.Identity.Source.String()}
	id := r.identity.Load()
	if id == nil || id.Slot == nil {
		return out
	}
	number := id.Slot.Number()
	out.Service, out.Slot, out.LeaseEnd = id.Slot.Service, &number, id.Slot.LeaseEnd()
	for _, s := range id.Slot.All() {
		one := ops.Slot{Number: s.Number, Node: secret.Clean(s.Node, ops.MaxMessage), State: "held", Task: secret.Clean(s.Task, ops.MaxMessage)}
		switch {
		case s.Departed:
			one.State = "logged out"
		case s.Holder == "" && s.Number != number:
			one.State = "free"
		}
		out.Slots = append(out.Slots, one)
	}
	return out
}

// leaseEnd returns the end of the lease of a slot; zero without one.
func (r *Router) leaseEnd() time.Time {
	if id := r.identity.Load(); id != nil && id.Slot != nil {
		return id.Slot.LeaseEnd()
	}
	return time.Time{}
}

// identityLost logs why the identity is lost, for an exit that waits for no part.
func (r *Router) identityLost() error {
	r.Abandon()
	err := r.identity.Load().Slot.Why()
	r.log.Error("another task may use this node's identity from now on; stopping at once", "err", err)
	return fmt.Errorf("%w: %w", ErrIdentityLost, err)
}

// releaseWait bounds the release of a slot. Without it, the slot becomes free when ECS reports
// the task as stopped.
const releaseWait = 3 * time.Second

// releaseIdentity lets another task have the slot. The engine no longer uses it.
func (r *Router) releaseIdentity(d slot.Departure) {
	id := r.identity.Load()
	if id == nil || id.Slot == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	if err := id.Slot.Release(ctx, d); err != nil {
		r.log.Warn("the slot could not be released; it becomes free when ECS reports this task as stopped", "slot", id.Slot.Number(), "err", err)
		return
	}
	r.log.Info("slot released", "slot", id.Slot.Number())
}

// identityProblem returns the reason why the identity is not open yet, with a code.
func identityProblem(err error) *problem.Problem {
	p := *problem.Of(err)
	if p.Code != problem.NoSlot {
		p.Code = problem.IdentityUnreadable
	}
	return &p
}
