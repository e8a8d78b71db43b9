package tailnettest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tailcfg/nodecap"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// keepAliveEvery is the period of keep-alive messages in a poll. Clients give up after two
// minutes without any message.
const keepAliveEvery = 50 * time.Second

// poll is the open map request of a node that is online.
type poll struct {
	ended chan struct{}             // closed when the poll must end
	pings chan *tailcfg.PingRequest // requests to send to the node
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

	// A streaming request is read-only. The node reports its state in other requests.
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
		return // the node does not read the response
	}
	if res, _ := t.mapResponse(n, &req, nil); res != nil {
		send(w, &req, res)
	}
}

// stream sends a node a map response after every change, until either side ends the poll.
func (t *Tailnet) stream(ctx context.Context, w http.ResponseWriter, n *member, req *tailcfg.MapRequest) {
	p := t.openPoll(n, req.NodeKey)
	if p == nil {
		http.Error(w, "node not found", http.StatusNotFound)
		return
	}
	defer t.closePoll(n, p)

	alive := time.NewTicker(keepAliveEvery)
	defer alive.Stop()
	var last []byte
	answered := 0
	var sent map[tailcfg.NodeID]bool
	for {
		t.mu.Lock()
		changed := t.changed
		asked := n.updates
		t.mu.Unlock()
		var res *tailcfg.MapResponse
		res, sent = t.mapResponse(n, req, sent)
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

// openPoll opens a poll, which makes n online, and ends an older one. It returns nil if n is
// no longer a member.
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

// mapResponse returns a full map response for n, and the peers in it. It extends that of
// testcontrol, which lacks membership and routes. sent are the peers in the last response
// of the stream.
func (t *Tailnet) mapResponse(n *member, req *tailcfg.MapRequest, sent map[tailcfg.NodeID]bool) (*tailcfg.MapResponse, map[tailcfg.NodeID]bool) {
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
	res.ControlTime = nil // it is in 2020, and clients correct their clocks by it
	slices.SortFunc(res.UserProfiles, func(a, b tailcfg.UserProfile) int { return cmp.Compare(a.ID, b.ID) })
	res.Debug = &tailcfg.Debug{DisableLogTail: true}

	if t.policy.Rules != nil {
		res.PacketFilter = packetFilter(t.policy.Rules)
	}
	t.decorateLocked(res.Node, n, now)
	own := n.approved
	if t.ownNode == AfterUpdates {
		own = slices.Concat(n.primary, n.exit)
	}
	res.Node.AllowedIPs = append(slices.Clone(res.Node.Addresses), own...)
	// Otherwise a node without connectivity asks a public server whether it is behind a
	// captive portal.
	res.Node.CapMap = tailcfg.NodeCapMap{nodecap.DisableCaptivePortalDetection: nil}
	if res.DNSConfig != nil && t.domain != "" {
		res.DNSConfig.CertDomains = []string{strings.TrimSuffix(t.fullName(n), ".")}
	}
	t.addAppConnectorsLocked(res, n)

	peers := res.Peers
	res.Peers = nil
	sending := map[tailcfg.NodeID]bool{}
	for _, p := range peers {
		m := t.byKeyLocked(p.Key)
		if m == nil || !m.authorized || !n.authorized {
			continue
		}
		t.decorateLocked(p, m, now)
		p.AllowedIPs = slices.Concat(p.Addresses, m.primary, m.exit)
		res.Peers = append(res.Peers, p)
		sending[p.ID] = true
	}
	// Clients take an empty list of peers for "unchanged".
	if len(res.Peers) == 0 {
		for id := range sent {
			res.PeersRemoved = append(res.PeersRemoved, id)
		}
		slices.Sort(res.PeersRemoved)
	}
	return res, sending
}

// fullName returns the node's name, with the tailnet's domain if it has one.
func (t *Tailnet) fullName(n *member) string {
	if t.domain == "" {
		return n.name
	}
	return n.name + "." + t.domain + "."
}

// decorateLocked sets the fields of a node that the tailnet decides.
func (t *Tailnet) decorateLocked(out *tailcfg.Node, n *member, now time.Time) {
	out.Name = t.fullName(n)
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
