package tailnet

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/routes"

	"tailscale.com/control/controlclient"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnext"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// Control servers differ in how a node learns that its routes were approved or
// moved. Tailscale's sends the node itself with the change. Headscale (0.28 and
// later, at least) sends a new packet filter to all nodes instead, without the
// node itself, so that a router would not learn of the approval before the next
// change of its endpoints or home DERP, which may never come. Headscale does send
// the node after each update that the node sends, and every control server sends
// it in the first message of a map poll. So the node asks for itself for as long
// as an announcement is unconfirmed: first by an update without news, which costs
// a control server next to nothing, then by polling again.
//
// Headscale does not end the poll of a node that was removed either, but answers
// its updates with 404. So a member sends an update now and then in any case.
const (
	// firstAsk leaves Tailscale's control, which confirms in less than a second,
	// alone, and lets Headscale, which takes up to 1.6 s to store an announcement,
	// finish.
	firstAsk = 2 * time.Second
	// longestAsk is the most that the interval, which doubles each time, grows to,
	// for routes may wait for a person's approval for days; and the interval while
	// all is confirmed.
	longestAsk = 10 * time.Minute
	// A netmap that leaves the announcement unconfirmed may be the sign of an
	// approval that it leaves out, or of a failover to this node. It brings an update
	// forward to newsDelay from now, but not to less than newsInterval after the last
	// question. Netmaps within answerTime of one are its consequence, and no such sign.
	newsDelay    = time.Second
	newsInterval = 10 * time.Second
	answerTime   = 5 * time.Second
)

// unconfirmed returns the routes that control has not confirmed: advertised ones
// that are not approved, and withdrawn ones that this node is still primary for.
func (s *Status) unconfirmed() []netip.Prefix {
	out := s.Unapproved()
	for _, p := range s.retracted {
		if slices.Contains(s.Primary, p) {
			out = append(out, p)
		}
	}
	return out
}

// asks decides when to ask. The zero value is ready.
type asks struct {
	announced int // of the status that due is for
	heard     int
	count     int           // since the announcement
	interval  time.Duration // between due and the next one; 0 while all is confirmed
	last      time.Time
	due       time.Time // zero: never
	news      bool      // due was brought forward
}

// next returns when to ask, given the present status; zero is never.
func (a *asks) next(now time.Time, s *Status) time.Time {
	heard := s.heard != a.heard
	a.heard = s.heard
	switch open := len(s.unconfirmed()) > 0; {
	case !s.Running() || s.Removed || s.leaving:
		*a = asks{heard: a.heard, last: a.last}
	case !open && (a.interval != 0 || a.due.IsZero()):
		a.interval, a.due, a.news = 0, now.Add(jitter(longestAsk)), false
	case !open:
	case a.interval == 0 || s.announced != a.announced:
		a.count, a.interval, a.due, a.news = 0, firstAsk, now.Add(firstAsk), false
	case heard && now.Sub(a.last) > answerTime:
		news := now.Add(newsDelay)
		if earliest := a.last.Add(newsInterval); earliest.After(news) {
			news = earliest
		}
		if news.Before(a.due) {
			a.due, a.news = news, true
		}
	}
	a.announced = s.announced
	return a.due
}

// ask notes that the node asks now, and reports whether it is to poll again.
func (a *asks) ask(now time.Time) (poll bool) {
	a.last = now
	switch {
	case a.interval == 0:
		a.due = now.Add(jitter(longestAsk))
		return false
	case a.news:
		// Polls would be news to other nodes of Headscale that wait for an approval.
		a.news, a.due = false, now.Add(jitter(a.interval))
		return false
	}
	a.count++
	a.interval = min(2*a.interval, longestAsk)
	a.due = now.Add(jitter(a.interval))
	return a.count > 1
}

// confirm asks control for the node itself when it is due, until the node closes.
func (n *Node) confirm() {
	var a asks
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
			poll := a.ask(time.Now())
			n.log.Debug("asking the control server for this node", "unconfirmed", routes.Strings(s.unconfirmed()), "poll", poll)
			n.state.set(func(s *Status) {
				if !s.asked {
					s.asked, s.askedHeard = true, s.heard
				}
			})
			n.askForSelf(poll)
		case <-n.ctx.Done():
			return
		}
	}
}

// askForSelf has the engine send an update without news, or begin another map poll.
func (n *Node) askForSelf(poll bool) {
	c, ok := ipnlocal.GetExt[*controlHook](n.lb)
	switch {
	case !ok || !n.sys.NetMon.Get().InterfaceState().AnyInterfaceUp():
		// Without a network the engine pauses its control client, and repoll would
		// start it again.
	case poll:
		c.repoll()
	default:
		c.update(n.lb.MagicConn().DiscoPublicKey())
	}
}

// controlHook keeps the engine's present control client at hand, which the
// engine replaces at each registration.
type controlHook struct {
	mu     sync.Mutex
	client controlclient.Client // nil: none
}

const controlHookName = "subnetrouter-control"

func init() {
	ipnext.RegisterExtension(controlHookName, func(logger.Logf, ipnext.SafeBackend) (ipnext.Extension, error) {
		return new(controlHook), nil
	})
}

// Name implements [ipnext.Extension].
func (h *controlHook) Name() string { return controlHookName }

// Init implements [ipnext.Extension].
func (h *controlHook) Init(host ipnext.Host) error {
	host.Hooks().NewControlClient.Add(func(c controlclient.Client, _ ipn.LoginProfileView) func() {
		h.set(c)
		return nil
	})
	return nil
}

// Shutdown implements [ipnext.Extension].
func (h *controlHook) Shutdown() error {
	h.set(nil)
	return nil
}

func (h *controlHook) set(c controlclient.Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client = c
}

func (h *controlHook) get() controlclient.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.client
}

// update sets the disco key to its present value, which the control client
// reports at once without a look at the old one.
func (h *controlHook) update(disco key.DiscoPublic) {
	if c := h.get(); c != nil {
		c.SetDiscoPublicKey(disco)
	}
}

// repoll uses that a control client which is paused ends its poll, and begins
// another one when it goes on. Nothing is lost: it sends an update again that was
// under way. A client that was shut down meanwhile ignores both calls.
func (h *controlHook) repoll() {
	if c := h.get(); c != nil {
		c.SetPaused(true)
		c.SetPaused(false)
	}
}
