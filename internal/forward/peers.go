package forward

// PeerRouters relays packets to other routers that may have their flows.
type PeerRouters interface {
	// MayHaveFlow reports whether there is a router to relay to. It is called for every
	// packet that may need one; Relay is not called if it returns false. It must not block.
	MayHaveFlow() bool
	// Relay passes a packet to a peer router and reports whether it did. The packet is
	// valid only during the call.
	Relay(packet []byte) bool
}

// noPeerRouters is for packets that no peer router may take.
type noPeerRouters struct{}

func (noPeerRouters) MayHaveFlow() bool { return false }
func (noPeerRouters) Relay([]byte) bool { return false }

// relayedAway passes a packet without a flow here to a peer router, and reports whether one took
// it.
func relayedAway(peers PeerRouters, raw []byte) bool { return peers.MayHaveFlow() && peers.Relay(raw) }

// Relayed is the outcome of [Forwarder.DeliverRelayed].
type Relayed int

// The outcomes of [Forwarder.DeliverRelayed].
const (
	RelayedRefused Relayed = iota // denied, malformed, a fragment, or a packet that would open a flow
	RelayedUnknown                // a datagram that belongs to no flow here
	RelayedReset                  // a segment that belongs to no connection here; answered with a reset
	RelayedTaken                  // delivered to its flow
)
