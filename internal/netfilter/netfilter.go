// Package netfilter forwards new TCP connections and UDP flows that arrive at this host to addresses behind a network
// device, with rules of nftables in tables of their own:
//
//	VPC ──▶ host ─ nat prerouting: destination := target ─ forward: MSS ─ nat postrouting: source := own ──▶ device
//
// The tables exist next to those of other programs, also where these use iptables, and each change replaces one in a
// single transaction. Rules of the host that already translate a destination, such as Docker's published ports, take
// precedence. Open flows are the kernel's: they outlast a change of the rules, and end with [Clear], as the kernel then may
// translate no more addresses.
package netfilter

import "net/netip"

// Forward is where the packets of one address family go.
type Forward struct {
	// Device is the interface that Target is behind. Packets that arrive at it are not forwarded.
	Device string
	// Target is the new destination, From the new source. They are of one family.
	Target, From netip.Addr
	// FirstPort to LastPort are the source ports.
	FirstPort, LastPort uint16
	// Except are destination ports, of TCP and UDP, whose packets are not forwarded.
	Except []uint16
	// OpenOnly makes open flows continue, and forwards no new ones.
	OpenOnly bool
}
