//go:build !sandbox

package main

import "net/netip"

// resolveTarget says where a target behind the router is dialed; nil is at itself.
// `make sandbox` builds with another, whose VPC lives in a process.
var resolveTarget func(network string, target netip.AddrPort) (netip.AddrPort, error)

// denyDial denies what resolveTarget returns; nil is by the deny list.
var denyDial func(target netip.AddrPort) bool
