package tailnet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/routes"

	"tailscale.com/ipn"
)

// reachableWait bounds an announcement's wait for endpoints and a home DERP.
// Where outbound UDP is blocked and no DERP server answers, netcheck gives up
// after 3 s, and there will be none.
const reachableWait = 5 * time.Second

// Advertise makes prefixes the advertised routes as soon as peers can reach the
// node. A route that became live earlier would cost its first user 5 s: a WireGuard
// client repeats a handshake that had no address to go to after that time.
//
// After [Node.Withdraw] it does nothing, since a look-up that ends while the router
// drains must not bring the routes back. While routes are held back, it takes effect
// when they no longer are.
func (n *Node) Advertise(prefixes []netip.Prefix) {
	n.mu.Lock()
	if !n.withdrawn {
		n.desired = append([]netip.Prefix{}, prefixes...) // not nil
	}
	n.mu.Unlock()
	n.wakeAnnouncer()
}

// HoldBack stops advertising all routes while hold is true. Packets that clients send
// to them all the same are still forwarded.
func (n *Node) HoldBack(hold bool) {
	n.mu.Lock()
	n.heldBack = hold
	n.mu.Unlock()
	n.wakeAnnouncer()
}

// routesToAdvertise returns the routes that control is to be given now.
func (n *Node) routesToAdvertise() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.heldBack || n.withdrawn {
		return nil
	}
	return slices.Clone(n.desired)
}

func (n *Node) wakeAnnouncer() {
	select {
	case n.routesChanged <- struct{}{}:
	default:
	}
}

// Withdraw stops advertising all routes for good, and waits until control has no primary
// route left at this node, or ctx ends. Routes of roles stay. The node still forwards packets of
// clients, each of which sends to it until it has received control's next netmap.
func (n *Node) Withdraw(ctx context.Context) error {
	n.mu.Lock()
	n.withdrawn = true
	n.mu.Unlock()
	n.wakeAnnouncer()
	serves := func(s *Status) bool { return len(s.Advertised) > 0 || len(s.Primary) > 0 }
	if !n.state.await(ctx, func(s *Status) bool { return !serves(s) || s.Backend != ipn.Running.String() }) {
		return fmt.Errorf("waiting for control server to move the routes: %w", context.Cause(ctx))
	}
	return nil
}

// routesToFreeze returns the routes of served that are still to be forwarded although they
// are no longer advertised: those that this router would advertise if they were neither
// held back nor withdrawn.
func (n *Node) routesToFreeze(served []netip.Prefix) []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.heldBack && !n.withdrawn {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(served), func(p netip.Prefix) bool { return !slices.Contains(n.desired, p) })
}

// announce has control advertise routesToAdvertise, and the engine freeze routesToFreeze,
// until the node closes:
//
//	not advertised ─▶ advertised: once the node is reachable; unfrozen after the change
//	advertised ─▶ held back or withdrawn: frozen before the change
//	held back ─▶ advertised: as above
//
// So there is no moment at which the packet filter drops packets for these routes.
//
// The engine changes the routes too: it adds those that the policy has for app connectors. announce
// undoes each such change, since connector decides on them, and the engine may write a list that it
// read before a withdrawal.
func (n *Node) announce() {
	var announced []netip.Prefix // the routes that control was last given
	var roles []netip.Prefix     // those of roleRoutes that it was given with them
	var served []netip.Prefix    // the last of these that were not empty
	var undone time.Time         // when a change of the engine was last undone
	retries := newBackoff()
	var retry <-chan time.Time // set after a failure
	reachable := false
	for {
		select {
		case <-n.routesChanged:
		case <-retry:
		case <-n.ctx.Done():
			return
		}
		retry = nil
		want := n.routesToAdvertise()
		if len(want) == 0 { // before the change, so that no packet is dropped
			n.engine.freeze(n.routesToFreeze(served))
		}
		wantRoles := n.roleRoutes()
		known := slices.Equal(want, announced) && slices.Equal(wantRoles, roles)
		if known && n.engineHas(want, wantRoles) {
			if len(want) > 0 {
				n.engine.freeze(nil)
			}
			continue
		}
		if known {
			if wait := undoPause - time.Since(undone); wait > 0 {
				retry = time.After(wait)
				continue
			}
			undone = time.Now()
			n.log.Info("the engine changed the routes; changing them back")
			n.forgetEngineRoutes()
		}
		if !reachable && len(want)+len(wantRoles) > 0 {
			if !n.awaitReachable() {
				return
			}
			reachable = true
			want = n.routesToAdvertise() // they may have been withdrawn meanwhile
			known = slices.Equal(want, announced) && slices.Equal(wantRoles, roles)
			if known && n.engineHas(want, wantRoles) {
				continue
			}
		}
		all := slices.Concat(want, wantRoles)
		err := n.edit(&ipn.MaskedPrefs{
			AdvertiseRoutes:    all,
			AdvertiseRoutesSet: true,
		})
		if err != nil {
			wait := retries.Next()
			n.log.Error("advertising routes failed; retrying", "routes", routes.Strings(all), "err", err, "retry_in", wait.String())
			retry = time.After(wait)
			continue
		}
		retries.Reset()
		roles = wantRoles
		if announced = want; len(want) > 0 {
			served = want
			n.engine.freeze(nil)
		}
		n.state.set(func(s *Status) {
			if known {
				s.announcements++ // control is to be asked about them once more
				s.routesAsked = false
				return
			}
			s.setAdvertised(want, roles)
			s.AppConnector = n.cfg.AppConnector
		})
		n.log.Info("routes advertised", "routes", routes.Strings(all))
	}
}

// undoPause is the least time between two changes back of routes that the engine changed.
const undoPause = time.Second

// engineHas reports whether the backend's preferences have these routes and no others.
func (n *Node) engineHas(want, roles []netip.Prefix) bool {
	all := slices.Concat(want, roles)
	has := n.lb.Prefs().AdvertiseRoutes().AsSlice()
	slices.SortFunc(all, netip.Prefix.Compare)
	slices.SortFunc(has, netip.Prefix.Compare)
	return slices.Equal(slices.Compact(all), slices.Compact(has))
}

// forgetEngineRoutes empties the table of the engine's app connector, which is not given any answers:
// a state of an earlier version may have addresses, which the engine would add to the routes each
// time that they change.
func (n *Node) forgetEngineRoutes() {
	c := n.lb.AppConnector()
	if c == nil {
		return
	}
	for _, addrs := range c.DomainRoutes() {
		if len(addrs) > 0 {
			c.ClearRoutes()
			return
		}
	}
}

// edit changes the backend's preferences. It fails if they cannot be stored.
func (n *Node) edit(p *ipn.MaskedPrefs) error {
	n.mu.Lock()
	edit := n.editPrefs
	n.mu.Unlock()
	return edit(p)
}

// setAdvertised records an announcement of routes, and of those of roles, to control.
func (s *Status) setAdvertised(prefixes, roles []netip.Prefix) {
	s.ExitNode.Advertised = containsAll(roles, ExitRoutes())
	s.Learned = slices.DeleteFunc(slices.Clone(roles), func(p netip.Prefix) bool { return p.Bits() == 0 })
	s.setPrimary()
	s.retracted = s.retracted[:0:0]
	for _, p := range s.Advertised {
		if !slices.Contains(prefixes, p) {
			s.retracted = append(s.retracted, p)
		}
	}
	s.Advertised = prefixes
	s.announcements++
	s.routesAsked = false
}

// homeDERPWait is the time that the engine may take to pass a home DERP to its control
// client. It is waited for where control does not confirm the home DERP.
const homeDERPWait = 300 * time.Millisecond

// awaitReachable waits until the next message to control will contain this node's
// endpoints and home DERP: the control client sends host information, endpoints
// and routes together, so it is enough that the engine has them. It reports false if
// the node closes first.
func (n *Node) awaitReachable() bool {
	if !n.state.await(n.ctx, func(s *Status) bool { return s.Backend == ipn.Running.String() }) {
		return false
	}
	start := time.Now()
	var knownSince time.Time
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		self := n.lb.StatusWithoutPeers().Self
		if knownSince.IsZero() && self != nil && len(self.Addrs) > 0 && self.Relay != "" {
			knownSince = time.Now()
		}
		echoed, _ := n.state.get()
		if !knownSince.IsZero() && (echoed.homeDERP != 0 || time.Since(knownSince) > homeDERPWait) {
			n.log.Debug("reachable", "endpoints", len(self.Addrs), "home_derp", self.Relay, "after", time.Since(start).String())
			return true
		}
		if time.Since(start) > reachableWait {
			n.log.Warn("no home DERP server or no endpoint found; advertising routes anyway",
				"waited", reachableWait.String(), "fix", "allow outbound UDP, and TCP 443 to the DERP servers, from the task's subnet")
			return true
		}
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return false
		}
	}
}
