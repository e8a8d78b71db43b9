package tailnettest

import (
	"fmt"
	"net/netip"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// AddStandIns adds n members that nobody plays: they are in every netmap, with an
// address each, and never online. They make a large tailnet of a small one, and
// are not among [Tailnet.Nodes].
func (t *Tailnet) AddStandIns(n int) (addrs []netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.standIns == nil {
		t.standIns = map[key.NodePublic]*member{}
	}
	for range n {
		i := len(t.standIns)
		addr := netip.AddrFrom4([4]byte{100, byte(100 + i>>16), byte(i >> 8), byte(i)})
		m := &member{
			id: tailcfg.NodeID(1_000_000 + i), key: key.NewNode().Public(), machine: key.NewMachine().Public(),
			name: fmt.Sprintf("stand-in-%d", i), tags: []string{"tag:stand-in"}, authorized: true,
		}
		t.base.UpdateNode(&tailcfg.Node{
			ID: m.id, StableID: tailcfg.StableNodeID(fmt.Sprintf("standin%d", i)), Key: m.key, Machine: m.machine,
			DiscoKey: key.NewDisco().Public(), Name: m.name, MachineAuthorized: true,
			Addresses: []netip.Prefix{netip.PrefixFrom(addr, 32)}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)},
		})
		t.standIns[m.key] = m
		addrs = append(addrs, addr)
	}
	t.updateLocked()
	return addrs
}
