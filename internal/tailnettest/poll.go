package tailnettest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// keepAlive is how often a poll with no news gets a sign of life. Clients give
// up after two minutes without any.
const keepAlive = 50 * time.Second

// poll is the open map request of a node that is online.
type poll struct {
	ended chan struct{}             // closed when the node is to ask again, or to go
	pings chan *tailcfg.PingRequest // to be sent; never blocks a sender for long
}

func (n *member) endPoll() {
	if n.poll != nil {
		close(n.poll.ended)
		n.poll = nil
		n.offline = time.Now()
	}
}

func (t *Tailnet) serveMap(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	var req tailcfg.MapRequest
	if err := readJSON(r, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t.mu.Lock()
	n := t.byKeyLocked(req.NodeKey)
	t.mu.Unlock()
	if n == nil || n.machine != machine {
		http.Error(w, "node not found", http.StatusNotFound)
		return
	}

	// A streaming request must be taken as read-only; what the node has to say
	// of itself comes in requests of its own.
	if req.Stream {
		t.stream(r.Context(), w, n, &req)
		return
	}
	if _, err := t.forward(r.Context(), "/machine/map", &req, machine); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	t.mu.Lock()
	before := n.advertised
	t.updateLocked()
	if slices.Equal(before, n.advertised) {
		n.updates++
	}
	t.mu.Unlock()
	if req.OmitPeers {
		return // nobody reads an answer
	}
	if res, _ := t.mapResponse(n, &req, nil); res != nil {
		send(w, &req, res)
	}
}

// stream tells a node of every change until either side ends it.
func (t *Tailnet) stream(ctx context.Context, w http.ResponseWriter, n *member, req *tailcfg.MapRequest) {
	p := t.openPoll(n, req.NodeKey)
	if p == nil {
		http.Error(w, "node not found", http.StatusNotFound)
		return
	}
	defer t.closePoll(n, p)

	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	var last []byte
	answered := 0
	var told map[tailcfg.NodeID]bool
	for {
		t.mu.Lock()
		changed := t.changed
		asked := n.updates
		t.mu.Unlock()
		var res *tailcfg.MapResponse
		res, told = t.mapResponse(n, req, told)
		if res == nil {
			if t.ownNode == AfterUpdates {
				select {
				case <-p.ended:
				case <-ctx.Done():
				}
			}
			return
		}
		if last != nil && (t.ownNode == InFirst || t.ownNode == AfterUpdates && asked == answered) {
			res.Node = nil
		}
		answered = asked
		// Most changes do not concern most nodes.
		if b, err := json.Marshal(res); err != nil || !bytes.Equal(b, last) {
			if last == nil {
				now := time.Now()
				res.ControlTime = &now
			}
			if send(w, req, res) != nil {
				return
			}
			last = b
		}

		for waiting := true; waiting; {
			var more *tailcfg.MapResponse
			select {
			case <-changed:
				waiting = false
				continue
			case ping := <-p.pings:
				more = &tailcfg.MapResponse{PingRequest: ping}
			case <-alive.C:
				more = &tailcfg.MapResponse{KeepAlive: true}
			case <-p.ended:
				return
			case <-ctx.Done():
				return
			}
			if send(w, req, more) != nil {
				return
			}
		}
	}
}

// openPoll takes n online, in place of an older poll. It returns nil if n is
// no member any more.
func (t *Tailnet) openPoll(n *member, as key.NodePublic) *poll {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKeyLocked(as) != n {
		return nil
	}
	was := n.poll
	n.endPoll()
	n.poll = &poll{ended: make(chan struct{}), pings: make(chan *tailcfg.PingRequest, 16)}
	if was == nil {
		t.log.Info("node online", "node", n.name)
		t.updateLocked()
	}
	return n.poll
}

func (t *Tailnet) closePoll(n *member, p *poll) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.poll != p {
		return
	}
	n.endPoll()
	t.log.Info("node offline", "node", n.name)
	t.updateLocked()
}

// mapResponse is all that n may know of the tailnet. It is built on
// testcontrol's, which knows nothing of membership and routes. told are the
// peers that the stream told of before; those it tells of now are returned.
func (t *Tailnet) mapResponse(n *member, req *tailcfg.MapRequest, told map[tailcfg.NodeID]bool) (*tailcfg.MapResponse, map[tailcfg.NodeID]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKeyLocked(req.NodeKey) != n {
		return nil, nil
	}
	res, err := t.base.MapResponse(req)
	if err != nil || res == nil {
		return nil, nil
	}
	now := time.Now()
	res.ControlTime = nil // a day in 2020; a client would correct its clock by it
	slices.SortFunc(res.UserProfiles, func(a, b tailcfg.UserProfile) int { return cmp.Compare(a.ID, b.ID) })
	res.Debug = &tailcfg.Debug{DisableLogTail: true}

	if t.policy.Rules != nil {
		res.PacketFilter = packetFilter(t.policy.Rules)
	}
	t.decorateLocked(res.Node, n, now)
	own := n.approved
	if t.ownNode == AfterUpdates {
		own = n.primary
	}
	res.Node.AllowedIPs = append(slices.Clone(res.Node.Addresses), own...)
	// Otherwise a node in trouble asks a well-known public server whether it is
	// behind a captive portal.
	res.Node.CapMap = tailcfg.NodeCapMap{tailcfg.NodeAttrDisableCaptivePortalDetection: nil}

	peers := res.Peers
	res.Peers = nil
	tell := map[tailcfg.NodeID]bool{}
	for _, p := range peers {
		m := t.byKeyLocked(p.Key)
		if m == nil || !m.authorized || !n.authorized {
			continue
		}
		t.decorateLocked(p, m, now)
		p.AllowedIPs = append(slices.Clone(p.Addresses), m.primary...)
		res.Peers = append(res.Peers, p)
		tell[p.ID] = true
	}
	// No peers at all would read as "no news".
	if len(res.Peers) == 0 {
		for id := range told {
			res.PeersRemoved = append(res.PeersRemoved, id)
		}
		slices.Sort(res.PeersRemoved)
	}
	return res, tell
}

// decorateLocked writes on a node what the tailnet decided about it.
func (t *Tailnet) decorateLocked(out *tailcfg.Node, n *member, now time.Time) {
	out.Name = n.name
	out.Tags = n.tags
	out.MachineAuthorized = n.authorized
	out.KeyExpiry = n.expiry
	out.Expired = n.expired(now)
	out.PrimaryRoutes = n.primary
	online := n.poll != nil
	out.Online = &online
	if !online && !n.offline.IsZero() {
		seen := n.offline
		out.LastSeen = &seen
	}
}

// send writes one frame of a map response: size, then JSON, compressed if the
// node asked for it.
func send(w http.ResponseWriter, req *tailcfg.MapRequest, res *tailcfg.MapResponse) error {
	b, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if req.Compress != "" {
		b = zstdframe.AppendEncode(nil, b, zstdframe.FastestCompression)
	}
	frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
	if _, err := w.Write(frame); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}
