package tailnet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/reach"
	"subnetrouter/internal/secret"

	"tailscale.com/ipn"
	"tailscale.com/tsconst"
)

// answerWait bounds the time that control may take to answer a registration, before
// the node tries again.
const answerWait = 30 * time.Second

// reachAfter is the time without an answer after which the node finds out whether the network
// leads to control at all, so that an operator need not wait for answerWait. reachTimeout
// bounds that request.
const (
	reachAfter   = 3 * time.Second
	reachTimeout = 6 * time.Second
)

// keyWait is the time for which a key without an answer is tried again before another
// is fetched: the key may have been minted for this registration, and a key for each
// attempt during an outage would be wasted. It is half the life of a minted key.
const keyWait = 5 * time.Minute

var errNoAnswer = errors.New("control server did not answer the registration")

// login waits until control asks for a credential, fetches one and registers, until the
// node closes: control asks again when the node key expires or the node is removed. The
// engine's states, with the fields of Status that login sets:
//
//	NoState ─▶ Starting ─▶ Running: the stored state is valid, no credential is needed
//	NoState or Running ─▶ NeedsLogin: register; LoginError is set after each failure
//	NeedsLogin ─▶ NeedsMachineAuth, Starting or Running: control has accepted the node;
//	            LoginError and Removed are cleared
//	Running with Removed: the engine polls in vain; treated as NeedsLogin
//	any, with leaving: no registration any more
func (n *Node) login() {
	pause := newBackoff()
	for {
		if !n.state.await(n.ctx, (*Status).needsCredential) {
			return
		}
		if s, _ := n.state.get(); s.Removed && s.LoginError == nil {
			n.log.Warn("control has removed this node; joining again", "node", s.Name)
		}
		err := n.register()
		if n.ctx.Err() != nil {
			return
		}
		if err != nil {
			n.cfg.LoginAttempted(err)
			n.state.set(func(s *Status) { s.LoginError = err })
			wait := max(pause.Next(), retryAfter(err))
			n.log.Error("joining the tailnet failed", "err", err, "retry_in", wait.Round(time.Millisecond).String())
			if !n.awaitJoin(wait) {
				continue
			}
		}
		n.cfg.LoginAttempted(nil)
		pause.Reset()
		n.pendingKey = unansweredKey{}
		n.state.set(func(s *Status) { s.LoginError, s.Removed = nil, false })
	}
}

// awaitJoin waits, and reports whether the engine has joined in that time: it keeps trying
// with a key that control has not answered.
func (n *Node) awaitJoin(wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(n.ctx, wait)
	defer cancel()
	before, _ := n.state.get()
	return n.state.await(ctx, func(s *Status) bool { return joined(before, *s) })
}

// joined reports whether control has accepted the node since before. The engine of a
// removed node counts as running only after another self update.
func joined(before, now Status) bool {
	if before.Removed && now.selfUpdates == before.selfUpdates {
		return false
	}
	switch now.Backend {
	case ipn.Running.String(), ipn.Starting.String(), ipn.NeedsMachineAuth.String():
		return true
	}
	return false
}

// needsCredential reports whether the node needs a credential to be a member.
func (s *Status) needsCredential() bool {
	return !s.leaving && (s.Removed || s.Backend == ipn.NeedsLogin.String())
}

// retryAfter returns the pause that err asks for, or 0.
func retryAfter(err error) time.Duration {
	return min(problem.Of(err).RetryAfter, mostRetryAfter)
}

// unansweredKey is a key that control has neither accepted nor refused.
type unansweredKey struct {
	key   secret.String
	since time.Time
}

// credential returns the key of the last attempt if control has not answered it within
// keyWait, and otherwise fetches one.
func (n *Node) credential(ctx context.Context) (secret.String, error) {
	if n.pendingKey.key != "" && time.Since(n.pendingKey.since) < keyWait {
		return n.pendingKey.key, nil
	}
	key, err := n.cfg.Credential(ctx)
	if err != nil {
		return "", err
	}
	n.pendingKey = unansweredKey{key, time.Now()}
	return key, nil
}

// register attempts to register once, and waits for the outcome.
func (n *Node) register() error {
	key, err := n.credential(n.ctx)
	if err != nil {
		return err
	}
	secret.Remember(key.Reveal()) // control may repeat it in an error
	before, _ := n.state.get()
	n.state.set(func(s *Status) { s.refusal = "" })
	if err := n.registrar.register(n.ctx, key); err != nil {
		return fmt.Errorf("registering with control server: %w", err)
	}
	err = n.awaitOutcome(before)
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Code != problem.ControlUnreachable {
		// Otherwise the engine would repeat the same key dozens of times a minute.
		n.registrar.stop()
		if p.Code != problem.ControlThrottled {
			n.pendingKey = unansweredKey{}
		}
		if p.Code == problem.KeyRefused || p.Code == problem.TagsRefused {
			n.cfg.CredentialRefused()
		}
	}
	return err
}

// awaitOutcome waits until control accepts or refuses the registration that began after
// before.
func (n *Node) awaitOutcome(before Status) error {
	timeout := time.NewTimer(answerWait)
	defer timeout.Stop()
	late := time.NewTimer(reachAfter)
	defer late.Stop()
	explained := make(chan *reach.Failure, 1) // the request may outlive the wait
	var network *reach.Failure
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
		case <-late.C:
			go func() { explained <- n.registrar.unreachable(n.ctx) }()
		case network = <-explained:
			if network != nil { // the engine keeps trying meanwhile
				err := noAnswer(n.controlURL(), reachAfter, "", network)
				n.state.set(func(s *Status) { s.LoginError = err })
			}
		case <-timeout.C:
			return noAnswer(n.controlURL(), answerWait, n.registrar.lastError(), network)
		case <-n.ctx.Done():
			return n.ctx.Err()
		}
	}
}

// registrar is login's interface to the engine.
type registrar interface {
	// register begins a registration. Its outcome appears in Node.state.
	register(ctx context.Context, key secret.String) error
	// stop ends the engine's attempts.
	stop()
	// lastError returns the error of the engine's last attempt, or "".
	lastError() string
	// unreachable explains why control does not answer requests, or returns nil if it does.
	unreachable(ctx context.Context) *reach.Failure
}

// engineRegistrar registers at the node's control server.
type engineRegistrar struct{ n *Node }

func (r engineRegistrar) register(ctx context.Context, key secret.String) error {
	// Start replaces the control client. There is no other way to give it a key.
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

func (r engineRegistrar) unreachable(ctx context.Context) *reach.Failure {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	f, _ := reach.Get(ctx, ControlProbe(r.n.cfg.ControlURL))
	return f
}
