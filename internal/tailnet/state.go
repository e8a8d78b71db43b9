package tailnet

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"

	"tailscale.com/health"
	"tailscale.com/health/healthmsg"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// Status is a snapshot of the node's state.
type Status struct {
	// Backend is the name of the engine's state: "NoState", "NeedsLogin",
	// "NeedsMachineAuth", "Stopped", "Starting", "Running". See [Node.login] for
	// their order.
	Backend string
	// ID is the node's stable ID at control; "" before it is a member.
	ID string
	// Name is the node's name in the tailnet, FullName the same with the tailnet's domain, if it
	// has MagicDNS, and IPs its addresses there.
	Name, FullName string
	IPs            []netip.Addr
	// Advertised are the routes that the node offers, Approved those that the
	// tailnet allows it to serve (offered now or not), and Primary those for which
	// control has elected it.
	Advertised, Approved, Primary []netip.Prefix
	// ExitNode is the state of the role of an exit node, whose routes are not among Advertised.
	ExitNode ExitNode
	// AppConnector reports that control knows the node as an app connector, and Learned are the
	// advertised routes of this role, which are not among Advertised either.
	AppConnector bool
	Learned      []netip.Prefix // sorted
	// KeyExpiry is the time at which the node key expires; zero means never.
	KeyExpiry time.Time
	// LoginError is the error of the last attempt to join; nil after a success.
	LoginError error
	// StateError is the reason why the node's identity cannot be stored; nil if it
	// can, or is not meant to be.
	StateError *problem.Problem
	// Removed is true if control has removed the node, until it has joined again.
	Removed bool
	// LockedOut is true if the tailnet uses Tailnet Lock and this node's key is not
	// signed, so that no peer accepts its packets. SignCommand is the command that
	// signs it.
	LockedOut   bool
	SignCommand string
	// Health holds the text of each of the engine's warnings by code.
	Health map[string]string

	elected       []netip.Prefix // routes for which control has elected this node, those of roles included
	homeDERP      int            // the region that control has for the node; 0 if none
	refusal       string         // control's text on the registration under way; "" before an answer
	notFoundCount int            // map requests in a row that control answered with 404
	selfUpdates   int            // how many messages of control contained this node
	// announcements counts changes of Advertised. retracted are the routes that the
	// last change removed.
	announcements int
	retracted     []netip.Prefix
	// routesAsked is true if control was asked for a self update since the last
	// change of Advertised, the first time when selfUpdates was askedAtUpdate.
	routesAsked   bool
	askedAtUpdate int
	leaving       bool // Close was called; never reset
}

// Running reports whether the node is a member of the tailnet.
func (s Status) Running() bool { return s.Backend == ipn.Running.String() && len(s.IPs) > 0 }

// askAnswered reports whether control has sent a self update since it was asked about the
// current routes.
func (s Status) askAnswered() bool { return s.routesAsked && s.selfUpdates > s.askedAtUpdate }

// expiryNotice bounds the time for which an engine still runs after its node key has
// expired: it notices after 10 s.
const expiryNotice = 30 * time.Second

// KeyExpired reports whether the node key has expired. The engine decides that by the
// clock of control: if it keeps running, the clock of this machine was set forward.
func (s Status) KeyExpired() bool {
	if s.KeyExpiry.IsZero() {
		return false
	}
	past := time.Since(s.KeyExpiry)
	return past >= 0 && (past < expiryNotice || !s.Running())
}

// Unapproved returns the advertised routes that the tailnet does not allow this
// node to serve.
func (s Status) Unapproved() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.Advertised {
		if !slices.Contains(s.Approved, p) {
			out = append(out, p)
		}
	}
	return out
}

// UnapprovedLearned returns the learned routes that the tailnet does not allow this node to serve.
func (s Status) UnapprovedLearned() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.Learned {
		if !slices.Contains(s.Approved, p) {
			out = append(out, p)
		}
	}
	return out
}

// Status returns the current status, and a channel that is closed at the next change.
func (n *Node) Status() (Status, <-chan struct{}) {
	s, changed := n.state.get()
	s.Health = maps.Clone(s.Health)
	if !ipn.IsLoginServerSynonym(n.controlURL()) && s.Running() && s.askAnswered() && len(s.Unapproved()) > 0 {
		s.Approved = slices.Concat(s.Approved, standby(s.Unapproved(), n.Tagged().Peers))
	}
	return s, changed
}

// standby returns the unapproved routes for which an online peer router is primary.
// Headscale reports the approval of a route only to the node that is primary for it. A
// standby infers it from a peer router with the same tag and the same route. Nothing is
// inferred at Tailscale's control, which reports approvals, or before control has answered
// a question about the routes: control may not have processed the announcement yet, nor
// sent this node to the peer router.
func standby(unapproved []netip.Prefix, peers []TaggedPeer) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range unapproved {
		if slices.ContainsFunc(peers, func(c TaggedPeer) bool { return c.Online && slices.Contains(c.Routes, p) }) {
			out = append(out, p)
		}
	}
	return out
}

// state holds the node's Status and wakes those that wait for a change. Slices and maps in
// the Status are replaced, never changed in place, so that copies may share them.
//
// mu is a leaf lock: the functions given to set run under it, and must not call the engine
// or log through it, since the engine's log calls set: see [Node.watchLog].
type state struct {
	mu      sync.Mutex // covers the fields below
	status  Status
	changed chan struct{} // closed, and replaced, at each change
}

func (s *state) init() {
	s.changed = make(chan struct{})
	s.status.Backend = ipn.NoState.String()
}

func (s *state) get() (Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.changed
}

// set changes the status by f and wakes all waiters.
func (s *state) set(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until cond holds. It reports false if ctx ends first.
func (s *state) await(ctx context.Context, cond func(*Status) bool) bool {
	for {
		now, changed := s.get()
		if cond(&now) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// watch applies the engine's notifications until the node closes. It closes watching once it
// receives them.
func (n *Node) watch(watching chan<- struct{}) {
	mask := ipn.NotifyInitialState | ipn.NotifyInitialStatus | ipn.NotifyInitialHealthState
	n.lb.WatchNotifications(n.ctx, mask, func() { close(watching) }, func(note *ipn.Notify) bool {
		n.apply(note)
		return true
	})
}

func (n *Node) apply(note *ipn.Notify) {
	if note.State != nil {
		if before, _ := n.state.get(); before.Backend != note.State.String() {
			n.log.Info("tailnet state changed", "from", before.Backend, "to", note.State.String())
		}
	}
	if note.ErrMessage != nil {
		n.log.Debug("message of the control server", "message", secret.Clean(*note.ErrMessage, mostSaid))
	}
	n.state.set(func(s *Status) {
		if note.State != nil {
			s.Backend = note.State.String()
		}
		if note.ErrMessage != nil {
			s.refusal = *note.ErrMessage
		}
		if note.BrowseToURL != nil {
			s.refusal = "it requires an interactive login, so it did not accept the auth key"
		}
		if note.SelfChange != nil {
			applySelf(s, note.SelfChange)
			s.selfUpdates, s.notFoundCount = s.selfUpdates+1, 0
		}
		if note.Health != nil {
			s.Health = warnings(note.Health)
			s.LockedOut = lockedOut(s.Health)
		}
	})
	if note.Health != nil {
		n.updateSignCommand()
	}
	if note.SelfChange != nil && n.cfg.AppConnector {
		changed, err := n.connector.setPolicy(note.SelfChange)
		if err != nil {
			n.log.Warn("the policy for app connectors is not valid; the one before stays", "err", secret.Clean(err.Error(), mostSaid))
		}
		if changed {
			n.wakeAnnouncer()
		}
	}
	if note.Prefs != nil {
		n.wakeAnnouncer() // the engine may have changed the routes
	}
}

func applySelf(s *Status, self *tailcfg.Node) {
	s.ID = string(self.StableID)
	s.Name = secret.Clean(cmp.Or(self.ComputedName, self.Name), maxName)
	s.FullName = secret.Clean(self.Name, maxName)
	s.IPs = s.IPs[:0:0]
	for _, p := range self.Addresses {
		s.IPs = append(s.IPs, p.Addr())
	}
	s.Approved = s.Approved[:0:0]
	for _, p := range self.AllowedIPs {
		if !slices.Contains(self.Addresses, p) {
			s.Approved = append(s.Approved, p)
		}
	}
	s.elected = slices.Clone(self.PrimaryRoutes)
	s.setPrimary()
	s.ExitNode.Approved = containsAll(self.AllowedIPs, ExitRoutes())
	s.KeyExpiry = self.KeyExpiry
	s.homeDERP = int(self.HomeDERP)
}

// setPrimary sets Primary from the routes that control has elected this node for, and those of roles,
// which are not withdrawn.
func (s *Status) setPrimary() {
	s.Primary = slices.DeleteFunc(slices.Clone(s.elected), func(p netip.Prefix) bool {
		_, learned := slices.BinarySearchFunc(s.Learned, p, netip.Prefix.Compare)
		return p.Bits() == 0 || learned
	})
}

// Bounds of the engine's warnings, in number and bytes: control may add warnings.
const (
	maxWarnings    = 50
	maxWarningSize = 1000
)

// maxName bounds a name from control in bytes, as DNS does.
const maxName = 253

func warnings(h *health.State) map[string]string {
	out := make(map[string]string, min(len(h.Warnings), maxWarnings))
	for _, code := range slices.Sorted(maps.Keys(h.Warnings)) {
		if len(out) == maxWarnings {
			break
		}
		out[secret.Clean(string(code), maxName)] = secret.Clean(h.Warnings[code].Text, maxWarningSize)
	}
	return out
}

// lockedOut reports whether a warning contains Tailnet Lock's message, which is the only
// sign of it.
func lockedOut(health map[string]string) bool {
	for _, text := range health {
		if strings.Contains(text, healthmsg.LockedOut) {
			return true
		}
	}
	return false
}

// updateSignCommand updates Status.SignCommand. It calls the engine, and so must not run
// inside state.set.
func (n *Node) updateSignCommand() {
	s, _ := n.state.get()
	command := ""
	if s.LockedOut {
		lock := n.lb.TailnetLockStatus()
		command = "tailscale lock sign"
		if lock.NodeKey != nil {
			command += " " + lock.NodeKey.String() + " " + lock.PublicKey.CLIString()
		}
	}
	if command != s.SignCommand {
		n.state.set(func(s *Status) { s.SignCommand = command })
	}
}

// Responsive waits until the engine answers a call, and returns ctx's error if ctx ends
// first. Concurrent callers share one call, so that calls do not pile up in an engine that
// is stuck.
func (n *Node) Responsive(ctx context.Context) error {
	if !n.Started() {
		return nil
	}
	select {
	case <-n.responsive.do(func() { n.lb.StatusWithoutPeers() }):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sharedCall is a function call that concurrent callers share. The zero value is ready.
type sharedCall struct {
	mu   sync.Mutex
	done chan struct{} // closed when the call under way ends; nil if there is none
}

// do begins a call of f unless one is under way, and returns a channel that is closed when
// the call ends.
func (c *sharedCall) do(f func()) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		done := make(chan struct{})
		c.done = done
		go func() {
			f()
			c.mu.Lock()
			c.done = nil
			c.mu.Unlock()
			close(done)
		}()
	}
	return c.done
}
