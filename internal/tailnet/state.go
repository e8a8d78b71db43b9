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

	"subnetrouter/internal/secret"

	"tailscale.com/health"
	"tailscale.com/health/healthmsg"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// Status is what is known of the node at one moment.
type Status struct {
	// Backend is the engine's state in tailscale's own words: "NoState",
	// "NeedsLogin", "NeedsMachineAuth", "Stopped", "Starting", "Running".
	Backend string
	// Name is the node's name in the tailnet, IPs its addresses there.
	Name string
	IPs  []netip.Addr
	// Advertised is what the node offers, Approved what the tailnet lets it
	// serve (offered now or not), Primary what control picked it for.
	Advertised, Approved, Primary []netip.Prefix
	// KeyExpiry is when the node key ends; zero is never.
	KeyExpiry time.Time
	// LoginError is why the last attempt to join failed; nil after a success.
	LoginError error
	// StateError is why the node's identity will not outlast the process although it
	// should; nil if it will.
	StateError error
	// Removed says that control no longer knows the node: it joins anew.
	Removed bool
	// LockedOut says that the tailnet has Tailnet Lock and nobody signed this
	// node's key, so that no peer talks to it. SignCommand is what a person
	// who may sign has to run.
	LockedOut   bool
	SignCommand string
	// Health holds the engine's warnings by their code.
	Health map[string]string

	homeDERP int
	refusal  string // control's last words on a registration
	notFound int    // map polls in a row that found no such node
	heard    int    // how often control told the node of itself
	// announced counts changes of Advertised; retracted are the routes that were
	// advertised before the last one and no longer are.
	announced int
	retracted []netip.Prefix
	// asked is whether control was asked about the routes since then, at askedHeard.
	asked      bool
	askedHeard int
	leaving    bool // for good
}

// Running reports whether the node is a member of the tailnet.
func (s Status) Running() bool { return s.Backend == ipn.Running.String() && len(s.IPs) > 0 }

// answered reports whether control has sent this node since it was asked about the
// present routes.
func (s Status) answered() bool { return s.asked && s.heard > s.askedHeard }

// expiryNotice is how long after the end of the node key an engine may still run: it
// notices after 10 s.
const expiryNotice = 30 * time.Second

// KeyExpired reports whether the node key has come to its end. The engine decides, by
// the clock of control: if it runs on, the clock of this machine was set forward.
func (s Status) KeyExpired() bool {
	if s.KeyExpiry.IsZero() {
		return false
	}
	past := time.Since(s.KeyExpiry)
	return past >= 0 && (past < expiryNotice || !s.Running())
}

// Unapproved lists the advertised routes that the tailnet does not let this
// node serve.
func (s Status) Unapproved() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.Advertised {
		if !slices.Contains(s.Approved, p) {
			out = append(out, p)
		}
	}
	return out
}

// Status returns what is known now, and a channel that is closed at the next change.
func (n *Node) Status() (Status, <-chan struct{}) {
	s, changed := n.state.get()
	s.Health = maps.Clone(s.Health)
	if !ipn.IsLoginServerSynonym(n.controlURL()) && s.Running() && s.answered() && len(s.Unapproved()) > 0 {
		s.Approved = slices.Concat(s.Approved, standby(s.Unapproved(), n.Tagged().Peers))
	}
	return s, changed
}

// standby returns those of the routes that an online peer router is primary for.
// Headscale reports a route to the node that is primary for it and to no other, so
// that a standby cannot see its approval: it takes a peer router, which has the
// same tag and the same route, for its sign. Tailscale's control reports approvals,
// so nothing is inferred there, nor before control has answered a question about the
// routes: it may not have seen the announcement yet, nor the peer router this node.
func standby(unapproved []netip.Prefix, peers []TaggedPeer) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range unapproved {
		if slices.ContainsFunc(peers, func(c TaggedPeer) bool { return c.Online && slices.Contains(c.Routes, p) }) {
			out = append(out, p)
		}
	}
	return out
}

// state guards a Status and tells waiters of changes. Slices and maps in it
// are replaced, never changed in place.
type state struct {
	mu      sync.Mutex
	now     Status
	changed chan struct{}
}

func (s *state) init() {
	s.changed = make(chan struct{})
	s.now.Backend = ipn.NoState.String()
}

func (s *state) get() (Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

func (s *state) set(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.now)
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns true once cond holds, false if ctx ends first.
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

// watch follows the engine's notifications until the node closes.
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
		n.log.Debug("control server says", "message", secret.Clean(*note.ErrMessage, mostSaid))
	}
	n.state.set(func(s *Status) {
		if note.State != nil {
			s.Backend = note.State.String()
		}
		if note.ErrMessage != nil {
			s.refusal = *note.ErrMessage
		}
		if note.BrowseToURL != nil {
			s.refusal = "it asks for an interactive login, so the auth key was not accepted"
		}
		if note.SelfChange != nil {
			applySelf(s, note.SelfChange)
			s.heard, s.notFound = s.heard+1, 0
		}
		if note.Health != nil {
			s.Health = warnings(note.Health)
			s.LockedOut = lockedOut(s.Health)
		}
	})
	if note.Health != nil {
		n.tellSignCommand()
	}
}

func applySelf(s *Status, self *tailcfg.Node) {
	s.Name = secret.Clean(cmp.Or(self.ComputedName, self.Name), mostName)
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
	s.Primary = slices.Clone(self.PrimaryRoutes)
	s.KeyExpiry = self.KeyExpiry
	s.homeDERP = int(self.HomeDERP)
}

// Bounds of the engine's warnings, in number and bytes: control adds some in its own words.
const (
	mostWarnings = 50
	mostWarning  = 1000
)

// mostName bounds a name that control gives, in bytes: that of a DNS name.
const mostName = 253

func warnings(h *health.State) map[string]string {
	out := make(map[string]string, min(len(h.Warnings), mostWarnings))
	for _, code := range slices.Sorted(maps.Keys(h.Warnings)) {
		if len(out) == mostWarnings {
			break
		}
		out[secret.Clean(string(code), mostName)] = secret.Clean(h.Warnings[code].Text, mostWarning)
	}
	return out
}

// lockedOut finds Tailnet Lock's verdict among the engine's warnings: it is told
// in words only.
func lockedOut(health map[string]string) bool {
	for _, text := range health {
		if strings.Contains(text, healthmsg.LockedOut) {
			return true
		}
	}
	return false
}

// tellSignCommand adds the keys that a person needs to let a locked out node in.
// The engine must not be asked with the state's lock held.
func (n *Node) tellSignCommand() {
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

// Responsive returns nil as soon as the engine answers, or ctx's error. One question is
// under way at a time, whoever asks: an engine that is stuck must not collect more.
func (n *Node) Responsive(ctx context.Context) error {
	if !n.Started() {
		return nil
	}
	select {
	case <-n.asked.ask(func() { n.lb.StatusWithoutPeers() }):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// question is asked by one, and its end is awaited by all. The zero value is ready.
type question struct {
	mu       sync.Mutex
	answered chan struct{} // nil while none is under way
}

// ask returns a channel that is closed once a question that was under way, or that this
// call began, has ended.
func (q *question) ask(f func()) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.answered == nil {
		answered := make(chan struct{})
		q.answered = answered
		go func() {
			f()
			q.mu.Lock()
			q.answered = nil
			q.mu.Unlock()
			close(answered)
		}()
	}
	return q.answered
}
