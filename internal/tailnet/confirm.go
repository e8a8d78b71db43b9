package tailnet

import (
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/routes"

	"tailscale.com/ipn/ipnlocal"
)

// Control servers inform a node of the approval or move of its routes in different
// ways. Tailscale's sends the node's own record (a "self update") with the change.
// Headscale (0.28 and later, at least) sends only a new packet filter, to all nodes, so
// that a router would not see the approval before the next change of its endpoints or
// home DERP, which may never come. But Headscale does send a self update after each
// update of the node, and every control server sends one in the first message of a map
// poll. So the node asks for a self update while an announcement is unconfirmed: first by
// an update without changes, which costs a control server almost nothing, then by
// polling again.
//
// Headscale also keeps the poll of a removed node open, but answers its updates with
// 404. So a member sends an update now and then in any case.
const (
	// firstAsk is the delay of the first question. Tailscale's control confirms an
	// announcement in less than a second and is never asked; Headscale takes up to
	// 1.6 s to store one.
	firstAsk = 2 * time.Second
	// maxAskInterval bounds the interval between questions, which doubles each time:
	// a person may take days to approve routes. It is also the interval while all
	// routes are confirmed.
	maxAskInterval = 10 * time.Minute
	// A netmap that leaves an announcement unconfirmed may hint at an approval that
	// it does not contain, or at a fail-over to this node. The next question is then
	// asked after earlyAskDelay, but no earlier than earlyAskInterval after the last
	// one. A netmap within askAnswerWithin of a question is its answer, and no hint.
	earlyAskDelay    = time.Second
	earlyAskInterval = 10 * time.Second
	askAnswerWithin  = 5 * time.Second
)

// unconfirmed returns the routes that control has not confirmed: advertised ones
// that are not approved, and retracted ones for which this node is still primary.
func (s *Status) unconfirmed() []netip.Prefix {
	out := s.Unapproved()
	for _, p := range s.retracted {
		if slices.Contains(s.Primary, p) {
			out = append(out, p)
		}
	}
	return out
}

// askSchedule schedules the questions to control. The zero value is ready. Only confirm's
// goroutine uses it.
type askSchedule struct {
	announcements int           // Status.announcements at the last call of next
	selfUpdates   int           // Status.selfUpdates at the last call of next
	count         int           // questions since the announcement, early ones excluded
	interval      time.Duration // from due to the question after it; 0 while all is confirmed
	last          time.Time     // of the last question
	due           time.Time     // of the next question; zero: never
	early         bool          // due is early because of a netmap
}

// next returns the time of the next question for the current status; zero means never.
func (a *askSchedule) next(now time.Time, s *Status) time.Time {
	updated := s.selfUpdates != a.selfUpdates
	a.selfUpdates = s.selfUpdates
	switch open := len(s.unconfirmed()) > 0; {
	case !s.Running() || s.Removed || s.leaving:
		*a = askSchedule{selfUpdates: a.selfUpdates, last: a.last}
	case !open && (a.interval != 0 || a.due.IsZero()):
		a.interval, a.due, a.early = 0, now.Add(backoff.Jitter(maxAskInterval, backoff.Retry)), false
	case !open:
	case a.interval == 0 || s.announcements != a.announcements:
		a.count, a.interval, a.due, a.early = 0, firstAsk, now.Add(firstAsk), false
	case updated && now.Sub(a.last) > askAnswerWithin:
		due := now.Add(earlyAskDelay)
		if earliest := a.last.Add(earlyAskInterval); earliest.After(due) {
			due = earliest
		}
		if due.Before(a.due) {
			a.due, a.early = due, true
		}
	}
	a.announcements = s.announcements
	return a.due
}

// asked records that the node asks now, and reports whether it must ask by polling again.
func (a *askSchedule) asked(now time.Time) (poll bool) {
	a.last = now
	switch {
	case a.interval == 0:
		a.due = now.Add(backoff.Jitter(maxAskInterval, backoff.Retry))
		return false
	case a.early:
		// No poll: at Headscale it would send netmaps to other nodes, whose early
		// questions would be polls in turn.
		a.early, a.due = false, now.Add(backoff.Jitter(a.interval, backoff.Retry))
		return false
	}
	a.count++
	a.interval = min(2*a.interval, maxAskInterval)
	a.due = now.Add(backoff.Jitter(a.interval, backoff.Retry))
	return a.count > 1
}

// confirm asks control for self updates when they are due, until the node closes.
func (n *Node) confirm() {
	var a askSchedule
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s, changed := n.state.get()
		now := time.Now()
		due := a.next(now, &s)
		timer.Stop()
		if !due.IsZero() {
			timer.Reset(due.Sub(now))
		}
		select {
		case <-changed:
		case <-timer.C:
			if due.IsZero() {
				continue
			}
			poll := a.asked(time.Now())
			n.log.Debug("asking control for a self update", "unconfirmed", routes.Strings(s.unconfirmed()), "poll", poll)
			n.state.set(func(s *Status) {
				if !s.routesAsked {
					s.routesAsked, s.askedAtUpdate = true, s.selfUpdates
				}
			})
			n.askForSelf(poll)
		case <-n.ctx.Done():
			return
		}
	}
}

// askForSelf has the engine send an update without changes, or begin another map poll.
func (n *Node) askForSelf(poll bool) {
	c, ok := ipnlocal.GetExt[*controlHook](n.lb)
	switch {
	case !ok || !n.sys.NetMon.Get().InterfaceState().AnyInterfaceUp():
		// Without a network the engine pauses its control client. repoll would
		// resume it.
	case poll:
		c.repoll()
	default:
		c.update(n.lb.MagicConn().DiscoPublicKey())
	}
}
