package tailnettest

import (
	"fmt"
	"net/netip"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// AddStandIns adds n members without a process, to make a small tailnet large: each has an
// address, is in every netmap and never online. [Tailnet.Nodes] does not list them.
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
