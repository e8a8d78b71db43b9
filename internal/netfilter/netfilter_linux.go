package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/tailscale/netlink"
	"golang.org/x/sys/unix"
)

// tableName is the name of the tables, one for each address family.
const tableName = "subnetrouter"

// families has the tables, and the values in which the families differ.
var families = []family{
	{table: nftables.TableFamilyIPv4, nat: unix.NFPROTO_IPV4, linkLocal: netip.MustParsePrefix("169.254.0.0/16"), source: 12, target: 16},
	{table: nftables.TableFamilyIPv6, nat: unix.NFPROTO_IPV6, linkLocal: netip.MustParsePrefix("fe80::/10"), source: 8, target: 24},
}

type family struct {
	table          nftables.TableFamily
	nat            uint32
	linkLocal      netip.Prefix
	source, target uint32 // offsets of the addresses in the IP header
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// Set replaces the rules for f's family. Flows of UDP that arrived before follow f at once, unless it is for open ones
// only; connections of TCP stay where they are.
func Set(f Forward) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening netfilter: %w", err)
	}
	fam := familyOf(f.Target)
	// Deleting a table that does not exist fails, and adding one that does is allowed.
	t := &nftables.Table{Name: tableName, Family: fam.table}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	f.addRules(c, t, fam)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("setting the rules of netfilter for %v: %w", f.Target, err)
	}
	if f.OpenOnly {
		return nil
	}
	return forgetUDP(netlink.InetFamily(fam.nat))
}

// Present reports whether the table of an address's family exists. Other programs may flush the rules of all.
func Present(a netip.Addr) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("opening netfilter: %w", err)
	}
	tables, err := c.ListTablesOfFamily(familyOf(a).table)
	if err != nil {
		return false, fmt.Errorf("listing the tables of netfilter: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), nil
}

// Clear removes the rules of both families, also those of an earlier process.
func Clear() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening netfilter: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("listing the tables of netfilter: %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName && slices.ContainsFunc(families, func(f family) bool { return f.table == t.Family }) {
			c.DelTable(t)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing the rules of netfilter: %w", err)
	}
	return nil
}

// addRules adds the chains with their rules to a new table.
func (f Forward) addRules(c *nftables.Conn, t *nftables.Table, fam family) {
	accept := nftables.ChainPolicyAccept
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) func(...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: &priority, Policy: &accept})
		return func(parts ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
		}
	}
	skip := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

	// After the rules of others.
	in := chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest+10)
	in(device(expr.MetaKeyIIFNAME, f.Device), skip)
	in(device(expr.MetaKeyIIFNAME, "lo"), skip)
	// A packet to another host, which this one forwards, is not for the tailnet.
	in([]expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, compare(expr.CmpOpNeq, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))}, skip)
	in(within(fam.source, fam.linkLocal), skip)
	in(within(fam.target, fam.linkLocal), skip)
	for _, p := range f.Except {
		in([]expr.Any{transport(2, 2), compare(expr.CmpOpEq, port(p))}, skip)
	}
	dnat := []expr.Any{&expr.Immediate{Register: 1, Data: f.Target.AsSlice()}, &expr.NAT{Type: expr.NATTypeDestNAT, Family: fam.nat, RegAddrMin: 1}}
	if !f.OpenOnly {
		// Connection tracking may meet a connection of this host in the middle, which is not to be taken from it: only a
		// SYN opens one.
		in(protocol(unix.IPPROTO_TCP), flags(0x17), []expr.Any{compare(expr.CmpOpEq, []byte{0x02})}, dnat)
		in(protocol(unix.IPPROTO_UDP), dnat)
	}

	// Before the rules of others, which may choose another source.
	out := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource-10)
	translated := []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, ipsDestinationNAT), Xor: make([]byte, 4)},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
	out(device(expr.MetaKeyOIFNAME, f.Device), within(fam.target, netip.PrefixFrom(f.Target, f.Target.BitLen())), translated, []expr.Any{
		&expr.Immediate{Register: 1, Data: f.From.AsSlice()},
		&expr.Immediate{Register: 2, Data: port(f.FirstPort)},
		&expr.Immediate{Register: 3, Data: port(f.LastPort)},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: fam.nat, RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 3, Specified: true},
	})

	// Path MTU discovery may not work towards hosts of the VPC, whose packets are larger than the device's.
	through := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityMangle)
	clamp := []expr.Any{
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: tcpOptionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}
	for _, way := range []struct {
		key    expr.MetaKey
		offset uint32
	}{{expr.MetaKeyOIFNAME, fam.target}, {expr.MetaKeyIIFNAME, fam.source}} {
		through(device(way.key, f.Device), within(way.offset, netip.PrefixFrom(f.Target, f.Target.BitLen())),
			protocol(unix.IPPROTO_TCP), flags(0x02), []expr.Any{compare(expr.CmpOpNeq, []byte{0})}, clamp)
	}
}

const (
	ipsDestinationNAT = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	tcpOptionMSS      = 2
)

// The functions below return parts of rules. All of them use register 1.

func compare(op expr.CmpOp, data []byte) expr.Any { return &expr.Cmp{Op: op, Register: 1, Data: data} }

func device(key expr.MetaKey, name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, compare(expr.CmpOpEq, b)}
}

// within matches packets whose address at an offset of the IP header is in a prefix.
func within(offset uint32, p netip.Prefix) []expr.Any {
	length := uint32(p.Addr().BitLen() / 8)
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: mask, Xor: make([]byte, length)},
		compare(expr.CmpOpEq, p.Masked().Addr().AsSlice()),
	}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, []byte{number})}
}

func transport(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// flags loads the flags of TCP that are in a mask.
func flags(mask byte) []expr.Any {
	return []expr.Any{transport(13, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}}}
}

// forgetUDP makes connection tracking forget the UDP flows that arrived for this host, so that the next packet of each
// meets the present rules: a client that keeps its port would otherwise stay with the earlier ones for ever.
func forgetUDP(fam netlink.InetFamily) error {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("reading the addresses of this host: %w", err)
	}
	if _, err := netlink.ConntrackDeleteFilter(netlink.ConntrackTable, fam, arrivedUDP(own)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("ending earlier UDP flows: %w", err)
	}
	return nil
}

// arrivedUDP matches the UDP flows that arrived for one of the addresses.
type arrivedUDP []net.Addr

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (a arrivedUDP) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && slices.ContainsFunc(a, func(own net.Addr) bool {
		n, ok := own.(*net.IPNet)
		return ok && n.IP.Equal(f.Forward.DstIP)
	})
}
