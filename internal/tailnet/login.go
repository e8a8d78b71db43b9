package tailnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"subnetrouter/internal/secret"

	"tailscale.com/ipn"
	"tailscale.com/tsconst"
)

// answerWait bounds how long control may take over a registration before it is
// tried anew.
const answerWait = 30 * time.Second

// keyWait is for how long a key that got no answer is tried again before
// another one is asked for: a key may have been made for the occasion, and one
// for every attempt of an outage would be wasted. It is half the life of such a key.
const keyWait = 5 * time.Minute

var errNoAnswer = errors.New("control server did not answer the registration")

// login waits until control asks for a credential, fetches one and registers;
// it goes on for the node's life, because control may ask again: when the node
// key expires, and when somebody removes the node.
func (n *Node) login() {
	var pause backoff
	for {
		if !n.state.await(n.ctx, (*Status).mustJoin) {
			return
		}
		if s, _ := n.state.get(); s.Removed && s.LoginError == nil {
			n.log.Warn("control server no longer knows this node; joining anew", "node", s.Name)
		}
		err := n.register()
		if n.ctx.Err() != nil {
			return
		}
		if err != nil {
			n.cfg.Joining(err)
			n.state.set(func(s *Status) { s.LoginError = err })
			wait := max(pause.next(), retryAfter(err))
			n.log.Error("joining the tailnet failed", "err", err, "retry_in", wait.Round(time.Millisecond).String())
			if !n.joinsWithin(wait) {
				continue
			}
		}
		n.cfg.Joining(nil)
		pause, n.unspent = backoff{}, unspent{}
		n.state.set(func(s *Status) { s.LoginError, s.Removed = nil, false })
	}
}

// joinsWithin waits, and reports whether the engine has joined by itself
// meanwhile: with a key that control has not answered it goes on trying.
func (n *Node) joinsWithin(wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(n.ctx, wait)
	defer cancel()
	before, _ := n.state.get()
	return n.state.await(ctx, func(s *Status) bool { return joined(before, *s) })
}

// joined reports whether control has taken the node in since before. The engine
// of a removed node is as good as running until it hears from control again.
func joined(before, now Status) bool {
	if before.Removed && now.heard == before.heard {
		return false
	}
	switch now.Backend {
	case ipn.Running.String(), ipn.Starting.String(), ipn.NeedsMachineAuth.String():
		return true
	}
	return false
}

// mustJoin reports whether only a credential helps.
func (s *Status) mustJoin() bool {
	return !s.leaving && (s.Removed || s.Backend == ipn.NeedsLogin.String())
}

// retryAfter is how long whoever failed asks to be left alone.
func retryAfter(err error) time.Duration {
	var asks interface{ RetryAfter() time.Duration }
	if errors.As(err, &asks) {
		return min(asks.RetryAfter(), mostRetryAfter)
	}
	return 0
}

// unspent is a key that control has not answered yet.
type unspent struct {
	key   secret.String
	since time.Time
}

// credential gives the key of an attempt that got no answer once more, else
// asks for one.
func (n *Node) credential(ctx context.Context) (secret.String, error) {
	if n.unspent.key != "" && time.Since(n.unspent.since) < keyWait {
		return n.unspent.key, nil
	}
	key, err := n.cfg.Credential(ctx)
	if err != nil {
		return "", err
	}
	n.unspent = unspent{key, time.Now()}
	return key, nil
}

// register makes one attempt and waits for its outcome.
func (n *Node) register() error {
	key, err := n.credential(n.ctx)
	if err != nil {
		return err
	}
	secret.Remember(key.Reveal()) // control may echo it
	before, _ := n.state.get()
	n.state.set(func(s *Status) { s.refusal = "" })
	if err := n.registrar.register(n.ctx, key); err != nil {
		return fmt.Errorf("registering with control server: %w", err)
	}
	err = n.outcome(before)
	if e := (*JoinError)(nil); errors.As(err, &e) && e.Kind != JoinNoAnswer {
		// The engine would try the same key again, dozens of times a minute.
		n.registrar.stop()
		if e.Kind != JoinThrottled {
			n.unspent = unspent{}
		}
		if e.Kind == JoinKeyRefused || e.Kind == JoinTagsRefused {
			n.cfg.Refused()
		}
	}
	return err
}

func (n *Node) outcome(before Status) error {
	timeout := time.NewTimer(answerWait)
	defer timeout.Stop()
	for {
		s, changed := n.state.get()
		switch {
		case s.refusal != "":
			return refusedBy(s.refusal)
		case joined(before, s):
			return nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return noAnswer(n.controlURL(), n.registrar.lastError())
		case <-n.ctx.Done():
			return n.ctx.Err()
		}
	}
}

// registrar is what login needs of the engine.
type registrar interface {
	register(ctx context.Context, key secret.String) error // begins; the outcome shows in the state
	stop()                                                 // tries no more
	lastError() string                                     // what the engine remembers of its last try
}

// engineRegistrar is the real one.
type engineRegistrar struct{ n *Node }

func (r engineRegistrar) register(ctx context.Context, key secret.String) error {
	// Start replaces the control client, the only way to hand it a key.
	if err := r.n.lb.Start(ipn.Options{AuthKey: key.Reveal()}); err != nil {
		return err
	}
	return r.n.lb.StartLoginInteractive(ctx)
}

func (r engineRegistrar) stop() { r.n.lb.DisconnectControl() }

func (r engineRegistrar) lastError() string {
	w := r.n.sys.HealthTracker.Get().CurrentState().Warnings[tsconst.HealthWarnableLoginState]
	_, last, _ := strings.Cut(w.Text, "The last login error was: ")
	return strings.TrimSuffix(last, ".")
}

func (n *Node) controlURL() string {
	if n.cfg.ControlURL != "" {
		return n.cfg.ControlURL
	}
	return ipn.DefaultControlURL
}

// notFound is in the error of a map request for a node that control does
// not know. The engine takes it for an outage, and goes on for ever with the
// last netmap that it has.
const notFound = "initial fetch failed 404"

// removedAfter is how many requests in a row have to find nothing: one may be the
// last of a connection that was ended for another reason.
const removedAfter = 2

// overhear takes out of the engine's log what it tells nowhere else: that its
// map requests are answered with "not found". Headscale answers so to updates only,
// and keeps the poll of a removed node open.
func (n *Node) overhear(format string, args []any) {
	poll := len(args) == 1 && strings.HasSuffix(format, "Received error: %v")
	update := len(args) == 2 && strings.Contains(format, "lite map update error")
	if !poll && !update {
		return
	}
	err, ok := args[len(args)-1].(error)
	if !ok {
		return
	}
	found := !strings.Contains(err.Error(), notFound)
	n.state.set(func(s *Status) {
		if s.notFound++; found {
			s.notFound = 0
		}
		s.Removed = s.Removed || s.notFound >= removedAfter
	})
}

// jitter spreads d over ±25 %, so that routers started together do not call together.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2)
}
