//go:build !sandbox

package main

import "net/netip"

// resolveTarget returns the address to dial for a target; nil dials the target itself.
// `make sandbox` builds with another one, for a VPC that is simulated in a process.
var resolveTarget func(network string, target netip.AddrPort) (netip.AddrPort, error)

// denyDial reports whether an address returned by resolveTarget must not be dialed; nil uses
// the deny list.
var denyDial func(target netip.AddrPort) bool
