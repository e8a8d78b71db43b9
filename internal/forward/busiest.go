package forward

import "net/netip"

// Busiest is the peer with the most flows open now, and how many.
func (f *Forwarder) Busiest() (client netip.Addr, flows int) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	for _, p := range f.peers {
		if p.flows > flows {
			client, flows = p.addr, p.flows
		}
	}
	return client, flows
}
