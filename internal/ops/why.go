package ops

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// WhyQuestion is the query of /why: the flow about which to answer.
type WhyQuestion struct {
	Target   string // HOST:PORT, or HOST for ICMP
	From     string // a node or a user; "" is any client
	Protocol string // "tcp", "udp" or "icmp"; "" is tcp
}

// Bounds of /why. An answer makes about ten calls to AWS and one connection to a target, so that
// few are enough to use up an account's rate, or to scan the VPC.
const (
	whyAtOnce  = 4                // answers in progress
	whyEvery   = time.Second      // between two answers, of all who ask together
	whyBurst   = 20               // answers without a pause
	whyOwn     = 3 * time.Second  // between two answers to one peer
	whyOwnMost = 10               // answers to one peer without a pause
	whyTimeout = 20 * time.Second // of one answer
	maxAskers  = 1000             // peers that are remembered
)

// rate is a token bucket.
type rate struct {
	tokens float64
	last   time.Time
}

// take takes a token, and reports whether there was one.
func (r *rate) take(now time.Time, every time.Duration, burst float64) bool {
	if r.last.IsZero() {
		r.tokens = burst
	} else {
		r.tokens = min(burst, r.tokens+now.Sub(r.last).Seconds()/every.Seconds())
	}
	r.last = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// askers bounds the answers of /why, in total and per peer. The zero value is ready.
type askers struct {
	mu      sync.Mutex
	running int
	total   rate
	peers   map[netip.Addr]*rate
}

// begin reports whether a peer may ask now; the zero Addr is this host. end must follow.
func (a *askers) begin(peer netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running == whyAtOnce {
		return false
	}
	if peer.IsValid() {
		if a.peers == nil {
			a.peers = map[netip.Addr]*rate{}
		}
		own := a.peers[peer]
		if own == nil {
			if len(a.peers) == maxAskers {
				a.forget(now)
			}
			if len(a.peers) == maxAskers {
				return false
			}
			own = new(rate)
			a.peers[peer] = own
		}
		if !own.take(now, whyOwn, whyOwnMost) {
			return false
		}
	}
	if !a.total.take(now, whyEvery, whyBurst) {
		return false
	}
	a.running++
	return true
}

// forget forgets the peers whose rate is full again.
func (a *askers) forget(now time.Time) {
	for peer, r := range a.peers {
		if now.Sub(r.last) > whyOwn*whyOwnMost {
			delete(a.peers, peer)
		}
	}
}

func (a *askers) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
}

// whyHeader is a header of the answer to /status, by which the page decides whether it has a field
// for questions.
const whyHeader = "Router-Why"

// asker returns the peer that asks why, zero for this host, or an error if it may not. Only this
// host may and, on the tailnet, peers with a capability of their own, since an answer makes the
// router connect.
func asker(r *http.Request) (peer netip.Addr, err error) {
	access, granted := r.Context().Value(grantedKey{}).(TailnetAccess)
	if !granted {
		if !fromHere(r) || !isAddress(r.Host) {
			return peer, errors.New("only this host, and granted peers on the tailnet, may ask why; run `router why` in the task")
		}
		return peer, nil
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if peer = plain(from.Addr()); err != nil || access.MayProbe == nil || !access.MayProbe(peer) {
		return peer, errors.New("this node may not ask why: " + access.ProbeFix)
	}
	return peer, nil
}

// why answers POST /why. The method and [http.CrossOriginProtection] keep other pages in a browser
// from asking.
func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	peer, err := asker(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if !s.askers.begin(peer, time.Now()) {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many questions at once; ask again in a few seconds", http.StatusTooManyRequests)
		return
	}
	defer s.askers.end()
	ctx, cancel := context.WithTimeout(r.Context(), whyTimeout)
	defer cancel()
	query := r.URL.Query()
	answer, err := s.cfg.Why(ctx, WhyQuestion{Target: query.Get("target"), From: query.Get("from"), Protocol: query.Get("protocol")})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

// isAddress reports whether the host of a request is an address, or this host's name for itself: a
// page with a name of its own could have pointed it here (DNS rebinding).
func isAddress(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost"
}
