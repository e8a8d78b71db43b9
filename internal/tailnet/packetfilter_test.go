package tailnet

import (
	"net/netip"
	"reflect"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/tailcfg/nodecap"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/netmap"
	"tailscale.com/types/views"
	"tailscale.com/wgengine/filter"
)

func TestPacketFilterEntries(t *testing.T) {
	target := netip.MustParsePrefix("10.0.0.0/16")
	from := []netip.Prefix{netip.MustParsePrefix("100.64.0.7/32")}
	got := entriesOf([]filter.Match{
		{Srcs: from, Caps: []filter.CapMatch{{Dst: target, Cap: "example.com/cap/x"}}}, // allows no packets
		{
			IPProto: views.SliceOf([]ipproto.Proto{ipproto.TCP}), Srcs: from, SrcCaps: []nodecap.Cap{"https://example.com/\x1bcap"},
			Dsts: []filter.NetPortRange{{Net: target, Ports: filter.PortRange{First: 80, Last: 90}}},
		},
	})
	want := []FilterEntry{{Protocols: []uint8{6}, Sources: from, Caps: got[0].Caps, Targets: []FilterTarget{{target, 80, 90}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFindClients(t *testing.T) {
	node := func(id int, name string, user tailcfg.UserID, change func(*tailcfg.Node)) tailcfg.NodeView {
		own := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, byte(id)}), 32)
		n := &tailcfg.Node{ID: tailcfg.NodeID(id), Name: name + ".example.ts.net.", ComputedName: name, User: user, Addresses: []netip.Prefix{own}}
		if change != nil {
			change(n)
		}
		return n.View()
	}
	m := &netmap.NetworkMap{
		Peers: []tailcfg.NodeView{
			node(1, "laptop", 1, nil), node(2, "phone", 1, func(n *tailcfg.Node) { n.IsJailed = true }),
			node(3, "server", 2, func(n *tailcfg.Node) { n.Tags = []string{"tag:server"} }),
		},
		UserProfiles: map[tailcfg.UserID]tailcfg.UserProfileView{
			1: (&tailcfg.UserProfile{LoginName: "ann@example.com"}).View(), 2: (&tailcfg.UserProfile{LoginName: "tagged-devices"}).View(),
		},
	}
	for who, want := range map[string][]string{
		"laptop": {"laptop"}, "LAPTOP": {"laptop"}, "laptop.example.ts.net": {"laptop"}, "laptop.example.ts.net.": {"laptop"},
		"100.64.0.3": {"server"}, "ann@example.com": {"laptop", "phone"}, "Ann@Example.com": {"laptop", "phone"},
		"tagged-devices": nil, "lap": nil, "": nil, ".": nil, "10.0.0.1": nil,
	} {
		var got []string
		for _, c := range clientsIn(m, who, 50) {
			got = append(got, c.Node)
			if c.Refused != (c.Node == "phone") {
				t.Errorf("%s: refused is %v", c.Node, c.Refused)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, want %v", who, got, want)
		}
	}
	if got := clientsIn(m, "ann@example.com", 1); len(got) != 1 {
		t.Errorf("%d nodes, want the limit", len(got))
	}
}
