package forward

import "net/netip"

// TopClient returns the node with the most open flows, by one of its addresses, and their
// number.
func (f *Forwarder) TopClient() (client netip.Addr, flows int) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	for addr, p := range f.peers {
		if p.flows > flows {
			client, flows = addr, p.flows
		}
	}
	return client, flows
}
