package handover

import (
	"encoding/json"
	"net/netip"
	"slices"

	"subnetrouter/internal/routes"
)

// A message is one byte that says what it is, and the rest. A router that does not
// know a kind, or a field, leaves it alone.
const (
	kindState     byte = 1 // a [State] as JSON
	kindForFlow   byte = 2 // a client's packet that may be of a flow of the draining router
	kindUnknown   byte = 3 // the same packet back: it is of none
	kindForClient byte = 4 // the draining router's packet to a client
)

// State is what a router tells others of itself.
type State struct {
	// Routes are those that it may serve, whether or not it does now.
	Routes []netip.Prefix `json:"routes,omitempty"`
	// Healthy is false while its probes fail.
	Healthy bool `json:"healthy"`
	// Relays says that it can pass packets of flows on: userspace mode.
	Relays bool `json:"relays"`
	// Draining is true from the signal to stop, Gone when it has ended.
	Draining bool `json:"draining,omitempty"`
	Gone     bool `json:"gone,omitempty"`
	// Answer asks for the receiver's state.
	Answer bool `json:"answer,omitempty"`
}

// Serves reports whether the router may serve all of these routes, and stays.
func (s State) Serves(all []netip.Prefix) bool {
	missing := func(p netip.Prefix) bool { return !within(s.Routes, p) }
	return !s.Draining && !s.Gone && !slices.ContainsFunc(all, missing)
}

// within reports whether p lies within one of have.
func within(have []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(have, func(h netip.Prefix) bool { return routes.Covers(h, p) })
}

func contains(have []netip.Prefix, a netip.Addr) bool {
	return within(have, netip.PrefixFrom(a, a.BitLen()))
}

func encode(s State) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and booleans
	}
	return append([]byte{kindState}, b...)
}
