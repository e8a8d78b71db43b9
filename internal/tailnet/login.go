package tailnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"tailscale.com/ipn"
)

// answerWait bounds how long control may take over a registration before it is
// tried anew, with a fresh credential.
const answerWait = 30 * time.Second

var errNoAnswer = errors.New("control server did not answer the registration")

// login waits until control asks for a credential, fetches one and registers;
// it goes on for the node's life, because control may ask again.
func (n *Node) login() {
	var pause backoff
	for {
		if !n.state.await(n.ctx, func(s *Status) bool { return s.Backend == ipn.NeedsLogin.String() }) {
			return
		}
		err := n.register()
		if n.ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = backoff{}
			n.state.set(func(s *Status) { s.LoginError = nil })
			continue
		}
		wait := pause.next()
		n.log.Error("joining the tailnet failed", "err", err, "retry_in", wait.Round(time.Millisecond).String())
		n.state.set(func(s *Status) { s.LoginError = err })
		select {
		case <-time.After(wait):
		case <-n.ctx.Done():
			return
		}
	}
}

// register makes one attempt and waits for its outcome.
func (n *Node) register() error {
	key, err := n.cfg.Credential(n.ctx)
	if err != nil {
		return err
	}
	n.state.set(func(s *Status) { s.refusal = "" })
	// Start replaces the control client, the only way to hand it a key.
	if err := n.lb.Start(ipn.Options{AuthKey: key.Reveal()}); err != nil {
		return fmt.Errorf("registering with control server: %w", err)
	}
	if err := n.lb.StartLoginInteractive(n.ctx); err != nil {
		return fmt.Errorf("registering with control server: %w", err)
	}
	timeout := time.NewTimer(answerWait)
	defer timeout.Stop()
	for {
		s, changed := n.state.get()
		switch {
		case s.refusal != "":
			return fmt.Errorf("registering with control server: %s; put a valid auth key (not expired or used up, tagged) where this one came from", s.refusal)
		case s.Backend == ipn.Running.String(), s.Backend == ipn.Starting.String():
			return nil
		case s.Backend == ipn.NeedsMachineAuth.String():
			return nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("registering with control server: %w within %v; is %s reachable from the task's subnet?",
				errNoAnswer, answerWait, n.controlURL())
		case <-n.ctx.Done():
			return n.ctx.Err()
		}
	}
}

func (n *Node) controlURL() string {
	if n.cfg.ControlURL != "" {
		return n.cfg.ControlURL
	}
	return ipn.DefaultControlURL
}

// jitter spreads d over ±25 %, so that routers started together do not call together.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2)
}
