package tailnet

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"tailscale.com/ipn/ipnauth"
	"tailscale.com/ipn/localapi"
	relaystatus "tailscale.com/net/udprelay/status"
	"tailscale.com/types/logger"
)

// Relay is the state of a peer relay.
type Relay struct {
	Bound    bool // its port is bound
	Sessions int  // pairs of nodes that may exchange packets through it
}

// relayAge is the age up to which a state of the peer relay is used again: readiness is asked
// for several times in a second.
const relayAge = time.Second

// relayState is the last state of the peer relay.
type relayState struct {
	mu    sync.Mutex
	at    time.Time
	state Relay
}

// PeerRelay returns the state of the peer relay, which the engine has for the LocalAPI only.
func (n *Node) PeerRelay() Relay {
	if !n.Started() || n.cfg.PeerRelay == 0 {
		return Relay{}
	}
	n.relay.mu.Lock()
	defer n.relay.mu.Unlock()
	if time.Since(n.relay.at) > relayAge {
		n.relay.at, n.relay.state = time.Now(), n.askRelay()
	}
	return n.relay.state
}

func (n *Node) askRelay() Relay {
	h := localapi.NewHandler(localapi.HandlerConfig{Actor: ipnauth.Self, Backend: n.lb, Logf: logger.Discard, EventBus: n.sys.Bus.Get()})
	h.PermitRead = true
	r, err := http.NewRequestWithContext(n.ctx, http.MethodGet, "http:///localapi/v0/debug-peer-relay-sessions", nil)
	if err != nil {
		return Relay{}
	}
	var answer localAnswer
	h.ServeHTTP(&answer, r)
	var s relaystatus.ServerStatus
	if json.Unmarshal(answer.Bytes(), &s) != nil {
		return Relay{}
	}
	return Relay{Bound: s.UDPPort != nil, Sessions: len(s.Sessions)}
}

// localAnswer is the body of an answer of the LocalAPI.
type localAnswer struct{ bytes.Buffer }

func (*localAnswer) Header() http.Header { return http.Header{} }
func (*localAnswer) WriteHeader(int)     {}
