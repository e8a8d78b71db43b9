package main

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"subnetrouter/internal/routes"
)

func neverReached(target netip.AddrPort) bool {
	_, denied := routes.Denied(target.Addr())
	return denied
}

// ownListener knows the router's HTTP listener by every address of this host,
// so that the tailnet cannot reach it through the VPC side.
type ownListener struct {
	port  uint16
	addrs atomic.Pointer[ownAddrs]
}

type ownAddrs struct {
	read time.Time
	set  map[netip.Addr]bool
}

// ownAddrsAge is how old the list may be. Addresses of a task do not change,
// save for the tailnet's own, which come with the first netmap.
const ownAddrsAge = 10 * time.Second

func newOwnListener(listen string) (*ownListener, error) {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("reading ROUTER_LISTEN=%s: %w", listen, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("reading the port of ROUTER_LISTEN=%s: %w", listen, err)
	}
	return &ownListener{port: uint16(n)}, nil
}

func (o *ownListener) is(target netip.AddrPort) bool {
	if target.Port() != o.port {
		return false
	}
	known := o.addrs.Load()
	if known == nil || time.Since(known.read) > ownAddrsAge {
		known = &ownAddrs{read: time.Now(), set: map[netip.Addr]bool{}}
		list, _ := net.InterfaceAddrs()
		for _, a := range list {
			if ipnet, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(ipnet.IP); ok {
					known.set[addr.Unmap()] = true
				}
			}
		}
		o.addrs.Store(known)
	}
	return known.set[target.Addr()]
}
