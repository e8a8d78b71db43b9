package handover

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/routes"
)

// hear takes another router's state.
func (r *Relay) hear(from netip.Addr, body []byte) {
	var s State
	if json.Unmarshal(body, &s) != nil {
		return
	}
	c, ok := r.companion(from)
	if !ok {
		return
	}
	now := time.Now()
	r.mu.Lock()
	r.heard[c.Addrs[0]] = heard{s, now}
	close(r.news)
	r.news = make(chan struct{})
	r.noteDrainer(c, s, now)
	r.mu.Unlock()
	if s.Answer {
		r.cfg.Send(c.Addrs[0], encode(r.state()))
	}
}

// noteDrainer remembers who drains. It speaks for the routes that control had given to
// it when it first said so.
func (r *Relay) noteDrainer(c Companion, s State, now time.Time) {
	addr := c.Addrs[0]
	d, known := r.drainers[addr]
	switch {
	case s.Gone:
		if known {
			delete(r.drainers, addr)
			r.cfg.Logger.Info("the other router has drained", "router", c.Name, "took", now.Sub(d.since).Round(time.Millisecond).String())
		}
	case s.Draining && s.Relays && (known || len(c.Primary) > 0):
		if !known {
			d = drainer{since: now}
			r.cfg.Logger.Info("another router drains; passing on what is of its flows", "router", c.Name, "routes", routes.Strings(c.Primary))
		}
		for _, p := range c.Primary {
			if !slices.Contains(d.routes, p) {
				d.routes = append(d.routes, p)
			}
		}
		d.heard = now
		r.drainers[addr] = d
	}
	r.foreign.Store(len(r.drainers) > 0)
}

// forget drops the routers that fell silent while they drained: as long as there is
// one, each packet costs a look whether it is of a flow here.
func (r *Relay) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for addr, d := range r.drainers {
		if now.Sub(d.heard) > memory {
			delete(r.drainers, addr)
		}
	}
	r.foreign.Store(len(r.drainers) > 0)
}

// Elsewhere reports whether a packet of no flow here may be of another router's.
func (r *Relay) Elsewhere() bool { return r.foreign.Load() }

// Take passes on a client's packet that is of no flow here, and reports whether it did.
// It comes back to [Config.Unclaimed] if nobody knows it.
func (r *Relay) Take(packet []byte) bool {
	_, target, ok := addresses(packet)
	if !ok {
		return false
	}
	to, found := netip.Addr{}, drainer{}
	r.mu.Lock()
	for addr, d := range r.drainers {
		if time.Since(d.heard) < memory && contains(d.routes, target) && d.since.After(found.since) {
			to, found = addr, d
		}
	}
	r.mu.Unlock()
	if !to.IsValid() {
		return false
	}
	r.out.Inc()
	r.cfg.Send(to, slices.Concat([]byte{kindForFlow}, packet))
	return true
}

// forClient takes a draining router's packet to a client.
func (r *Relay) forClient(from netip.Addr, packet []byte) {
	src, _, ok := addresses(packet)
	if !ok {
		return
	}
	r.mu.Lock()
	d, known := r.drainers[from]
	r.mu.Unlock()
	if known && contains(d.routes, src) {
		r.in.Inc()
		r.cfg.ToClient(packet)
	}
}
