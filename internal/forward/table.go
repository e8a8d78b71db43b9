package forward

import (
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/packet"
)

// flowTable holds the flows of one protocol, and everything that only this protocol needs. The
// Forwarder knows flows by this interface alone. The methods may be called concurrently, and
// without a lock.
type flowTable interface {
	// newBatch returns a batch of packets for the table.
	newBatch() batch
	// active returns the number of open flows; one whose target is being dialed is not open.
	active() int
	// walk calls visit for each flow, also for those that are being opened or ended. It holds
	// the table's lock meanwhile: visit must be short, and must not call a table. Flows that
	// come or go during the walk may be left out.
	walk(visit func(flow))
	// cut ends every flow and returns how many were open. A table may end them later, on the
	// workers; ending reports the progress.
	cut() int
	// ending returns the number of flows that cut has yet to end, without those that
	// need no wait.
	ending() int
	// sweep ends the flows, and other state, that have timed out. It is called once a second.
	sweep(now time.Time)
	// close releases the state that does not belong to a flow. It is called once, after the
	// last cut and when no worker runs any more.
	close()
}

// batch takes the packets of one delivery that are of the table's protocol and not fragments. It
// may hold them back until flush, to handle several of one flow at once. One goroutine at a time
// uses it; after flush it is empty and may be used for another delivery.
//
// The bytes of a packet are valid until flush, the Packet only during the call. No method waits.
type batch interface {
	// deliver forwards a packet, opens a flow for it, answers it or drops it, each with its
	// count. If it belongs to no flow here, peers may take it.
	deliver(p *packet.Packet, peers PeerRouters)
	// deliverRelayed is deliver for a packet that a peer router relayed. It takes only
	// packets of open flows, if the rules still allow these.
	deliverRelayed(p *packet.Packet) Relayed
	flush()
}

// flow is one flow of a table. Its methods may be called concurrently; after its end they have no
// effect.
type flow interface {
	// common returns the part that flows of all protocols have.
	common() *record
	// open reports whether both sides are connected.
	open() bool
	// busy reports whether the flow is being opened, has just moved data, or has an
	// unanswered request of the last 2 s.
	busy(now time.Time) bool
	// revoke ends the flow because it is no longer allowed. It may end later, on a worker.
	revoke()
}

// tables are the flow tables of all protocols.
type tables [protocolCount]flowTable

// active returns the open flows of each protocol.
func (t *tables) active() (n Counts) {
	for p, table := range t {
		n[p] = table.active()
	}
	return n
}

// cut ends every flow that is open now, and returns how many there were.
func (t *tables) cut() (n Counts) {
	for p, table := range t {
		n[p] = table.cut()
	}
	return n
}

// ending returns the flows that a cut has yet to end.
func (t *tables) ending() (n int) {
	for _, table := range t {
		n += table.ending()
	}
	return n
}

func (t *tables) sweep(now time.Time) {
	for _, table := range t {
		table.sweep(now)
	}
}

func (t *tables) close() {
	for _, table := range t {
		table.close()
	}
}

// busy returns the number of busy flows.
func (t *tables) busy() (n int) {
	now := time.Now()
	for _, table := range t {
		table.walk(func(fl flow) {
			if fl.busy(now) {
				n++
			}
		})
	}
	return n
}

// inUse reports whether a flow goes to an address.
func (t *tables) inUse(target netip.Addr) (found bool) {
	for _, table := range t {
		table.walk(func(fl flow) { found = found || fl.common().key.target().Addr() == target })
	}
	return found
}

// all returns the flows that a walk visits, for callers that need them without a table's lock.
func (t *tables) all() (all []flow) {
	for _, table := range t {
		table.walk(func(fl flow) { all = append(all, fl) })
	}
	return all
}

// revoke ends the flows that the rules no longer permit, and returns their number.
func (t *tables) revoke(r *rules) (ended int) {
	// The rules are another package's functions: they are called without the table's lock,
	// which packet delivery takes.
	for _, fl := range t.all() {
		if c := fl.common(); !r.permit(c) {
			fl.revoke()
			ended++
		}
	}
	return ended
}

// describe returns up to n open flows, those that moved the most bytes first.
func (t *tables) describe(n int) []Flow {
	var all []Flow
	for _, table := range t {
		table.walk(func(fl flow) {
			if fl.open() {
				all = append(all, fl.common().describe(""))
			}
		})
	}
	slices.SortFunc(all, func(a, b Flow) int {
		if d := (b.ToVPCBytes + b.ToTailnetBytes) - (a.ToVPCBytes + a.ToTailnetBytes); d != 0 {
			return int(min(max(d, -1), 1))
		}
		return a.Opened.Compare(b.Opened)
	})
	return all[:min(n, len(all))]
}
