package handover

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"slices"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/routes"
)

// A message is one byte for its kind, and a body. A router drops messages of an unknown
// kind, and ignores unknown fields of a [State], so that versions can be mixed.
const (
	// From a successor to a draining router:
	kindRelayed byte = 2 // a client's packet, and the packet's number
	// From a draining router to a successor:
	kindForClient byte = 4 // a packet to a client
	// Answers of a draining router to kindRelayed:
	kindUnknown byte = 3 // no flow here has the packet; the kindRelayed's body, which ends in its number
	kindTaken   byte = 5 // a flow here took the packet; its number
	kindWait    byte = 6 // this router's netmap does not give the sender the route yet; the packet's number
	// Between any two routers:
	kindState byte = 1 // a [State] as JSON
)

// numberSize is the size in bytes of a relayed packet's number.
const numberSize = 8

// maxStateSize bounds a [State] in bytes: some 500 routes.
const maxStateSize = 16 << 10

// State is a router's description of itself. Everything in it is a claim: facts are in
// [peers].
type State struct {
	// Routes are the routes that the router may serve, whether or not it does now.
	Routes []netip.Prefix `json:"routes,omitempty"`
	// Healthy is false while the router's probes fail.
	Healthy bool `json:"healthy"`
	// Relays is true if the router can relay packets: in userspace mode.
	Relays bool `json:"relays"`
	// Draining is true from the beginning of the router's drain, Gone from its end.
	Draining bool `json:"draining,omitempty"`
	Gone     bool `json:"gone,omitempty"`
	// Confirms is true if the router answers each numbered datagram that is relayed to it.
	Confirms bool `json:"confirms,omitempty"`
	// Answer asks for the receiver's state.
	Answer bool `json:"answer,omitempty"`
}

// Serves reports whether the router claims to serve all of these routes, and to stay.
func (s State) Serves(all []netip.Prefix) bool {
	missing := func(p netip.Prefix) bool { return !within(s.Routes, p) }
	return !s.Draining && !s.Gone && !slices.ContainsFunc(all, missing)
}

// helps reports whether the router offers to serve the routes of one that drains, and to
// relay packets of its flows.
func (s State) helps(all []netip.Prefix) bool { return s.Relays && s.Serves(all) }

// within reports whether p lies within one of have.
func within(have []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(have, func(h netip.Prefix) bool { return routes.Covers(h, p) })
}

func containsAddr(have []netip.Prefix, a netip.Addr) bool {
	return within(have, netip.PrefixFrom(a, a.BitLen()))
}

func encodeState(s State) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // impossible: a State holds prefixes and booleans
	}
	return append([]byte{kindState}, b...)
}

// answerMessage returns an answer of some kind about the relayed packet with a number.
func answerMessage(kind byte, number []byte) []byte { return append([]byte{kind}, number...) }

func appendNumber(b []byte, number uint64) []byte { return binary.BigEndian.AppendUint64(b, number) }

// numberOf reads the number of a relayed packet at the end of an answer's body.
func numberOf(body []byte) (number uint64, ok bool) {
	if len(body) < numberSize {
		return 0, false
	}
	return binary.BigEndian.Uint64(body[len(body)-numberSize:]), true
}

// flow identifies the flow of a packet by addresses and ports.
type flow struct {
	src, dst netip.Addr
	ports    [4]byte
}

// flowOf returns the flow of p. It reports false if p is too short to have ports.
func flowOf(p packet.Header) (f flow, ok bool) {
	if len(p.Payload()) < 4 {
		return flow{}, false
	}
	return flow{p.Src, p.Dst, [4]byte(p.Payload())}, true
}
