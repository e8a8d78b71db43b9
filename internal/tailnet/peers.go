package tailnet

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Path is the kind of path that packets to a peer take.
type Path string

// The paths. The set is closed: the path is a metric's label.
const (
	PathDirect Path = "direct" // UDP to the peer itself
	PathRelay  Path = "relay"  // UDP through another node of the tailnet
	PathDERP   Path = "derp"   // through a DERP server
	PathIdle   Path = "idle"   // none, as nothing was sent for 45 s
)

// Paths lists all paths.
var Paths = []Path{PathDirect, PathRelay, PathDERP, PathIdle}

// Session describes this node's WireGuard session with a peer.
type Session struct {
	Peer
	IP   netip.Addr // the peer's first address in the tailnet
	Path Path
	// Via is the address to which packets to the peer go, or the code of the
	// DERP region; "" while idle.
	Via string
	// Latency is the last measured round trip, and Measured its time; zero means
	// none. See [Node.Peers].
	Latency  time.Duration
	Measured time.Time
	// Bytes of WireGuard's payload since the peer became active.
	ToPeerBytes, FromPeerBytes int64
	// Handshake is the time of the last handshake; zero means none.
	Handshake time.Time
}

// Peers counts all peers of the netmap by path, and lists up to limit of those
// that this node has exchanged packets with: active ones first, then by bytes,
// most first.
//
// Peers begins to measure the latency of listed active peers whose last measurement is
// older than measureEvery, by one small packet each, which keeps no path alive. It does
// not wait for the results: the next call returns them.
func (n *Node) Peers(limit int) (list []Session, count map[Path]int) {
	count = make(map[Path]int, len(Paths))
	for _, p := range Paths {
		count[p] = 0
	}
	if !n.Started() {
		return nil, count
	}
	type entry struct {
		key    key.NodePublic
		status *ipnstate.PeerStatus
	}
	var used []entry
	// The engine's status, not the backend's, which looks up the names of all peers,
	// thousands in a large tailnet.
	b := &ipnstate.StatusBuilder{WantPeers: true}
	n.sys.Engine.Get().UpdateStatus(b)
	for key, p := range b.Status().Peer {
		path := pathOf(p)
		count[path]++
		if path != PathIdle || p.RxBytes > 0 || p.TxBytes > 0 {
			used = append(used, entry{key, p})
		}
	}
	slices.SortFunc(used, func(a, b entry) int {
		return cmp.Or(
			cmp.Compare(idle(a.status), idle(b.status)),
			cmp.Compare(b.status.RxBytes+b.status.TxBytes, a.status.RxBytes+a.status.TxBytes),
			a.key.Compare(b.key))
	})
	for _, e := range used {
		if len(list) == limit {
			break
		}
		if s, ok := n.session(e.key, e.status); ok {
			list = append(list, s)
		}
	}
	n.latency.measure(n, list)
	return list, count
}

func pathOf(p *ipnstate.PeerStatus) Path {
	switch {
	case !p.Active:
		return PathIdle
	case p.CurAddr != "":
		return PathDirect
	case p.PeerRelay != "":
		return PathRelay
	}
	return PathDERP
}

func idle(p *ipnstate.PeerStatus) int {
	if p.Active {
		return 0
	}
	return 1
}

// session returns the session of a peer. It reports false if the netmap no longer has
// the peer.
func (n *Node) session(key key.NodePublic, p *ipnstate.PeerStatus) (Session, bool) {
	node, user, ok := n.lb.WhoIsNodeKey(key)
	if !ok || node.Addresses().Len() == 0 {
		return Session{}, false
	}
	s := Session{
		Peer: peerOf(node, user), IP: node.Addresses().At(0).Addr(), Path: pathOf(p),
		ToPeerBytes: p.TxBytes, FromPeerBytes: p.RxBytes, Handshake: p.LastHandshake,
	}
	switch s.Path {
	case PathDirect:
		s.Via = p.CurAddr
	case PathRelay:
		s.Via = p.PeerRelay
	case PathDERP:
		s.Via = p.Relay
	case PathIdle:
	}
	return s, true
}

// measureEvery is the minimum period of measurements of one peer, for all callers together,
// and measureWait bounds the wait for an answer.
const (
	measureEvery = 15 * time.Second
	measureWait  = 5 * time.Second
)

// latencies holds the last measurement of each listed peer. The zero value is ready.
type latencies struct {
	mu   sync.Mutex
	last map[netip.Addr]measurement // covered by mu
}

type measurement struct {
	begun, done time.Time
	took        time.Duration // 0: no answer
}

// measure sets the latency of each session to the last measurement, begins those
// measurements that are due, and forgets peers that are not in the list.
func (l *latencies) measure(n *Node, list []Session) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := make(map[netip.Addr]measurement, len(list))
	for i := range list {
		s := &list[i]
		m := l.last[s.IP]
		if m.took > 0 {
			s.Latency, s.Measured = m.took, m.done
		}
		if s.Path != PathIdle && now.Sub(m.begun) > measureEvery && n.ctx.Err() == nil {
			m.begun = now
			go l.ping(n, s.IP)
		}
		kept[s.IP] = m
	}
	l.last = kept
}

func (l *latencies) ping(n *Node, ip netip.Addr) {
	ctx, cancel := context.WithTimeout(n.ctx, measureWait)
	defer cancel()
	result, err := n.lb.Ping(ctx, ip, tailcfg.PingDisco, 0)
	l.mu.Lock()
	defer l.mu.Unlock()
	m, listed := l.last[ip]
	if !listed {
		return
	}
	m.done, m.took = time.Now(), 0
	if err == nil && result.Err == "" {
		m.took = time.Duration(result.LatencySeconds * float64(time.Second))
	}
	l.last[ip] = m
}
