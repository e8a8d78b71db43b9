package forward

import (
	"net/netip"
	"sync"
)

// nodeKeys are the addresses under which a map has the entry of a tailnet node: its limits and
// shares apply to all of its addresses together. The lock of the map guards them.
type nodeKeys []netip.Addr

func (k *nodeKeys) keys() *nodeKeys { return k }

// nodeEntry is the constraint of a pointer to an E, a struct that embeds nodeKeys.
type nodeEntry[E any] interface {
	*E
	keys() *nodeKeys
}

// addNode returns the entry of the node that has an address, or a new one, and lets entries have
// it under this address, too. It is called with mu, the lock of entries, held, and releases mu
// while it looks up the node by [Config.Peer].
func addNode[E any, P nodeEntry[E]](mu *sync.Mutex, entries map[netip.Addr]P, nodeOf func(netip.Addr) netip.Addr, client netip.Addr) P {
	mu.Unlock()
	node := nodeOf(client)
	mu.Lock()
	entry := entries[client] // another goroutine may have added it meanwhile
	if entry == nil {
		entry = entries[node]
	}
	if entry == nil {
		entry = new(E)
	}
	for _, addr := range []netip.Addr{client, node} {
		if entries[addr] == nil {
			entries[addr] = entry
			*entry.keys() = append(*entry.keys(), addr)
		}
	}
	return entry
}

// removeNode removes an entry. It is called with the lock of entries held.
func removeNode[E any, P nodeEntry[E]](entries map[netip.Addr]P, entry P) {
	for _, addr := range *entry.keys() {
		delete(entries, addr)
	}
}
