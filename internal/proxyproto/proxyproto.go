// Package proxyproto encodes the header of the PROXY protocol, version 2, by which a target learns the
// client of a connection that the router opens: HAProxy's doc/proxy-protocol.txt, section 2.2.
package proxyproto

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The types of the TLVs with the client's identity in the tailnet, from the range that the specification
// leaves to applications (PP2_TYPE_MIN_CUSTOM to PP2_TYPE_MAX_CUSTOM). Values are UTF-8.
const (
	TypeNode = 0xE0 // the node's name
	TypeUser = 0xE1 // the owner's login; missing if the node has tags
	TypeTags = 0xE2 // the node's tags, with commas between; missing if it has none
)

// Header describes a TCP connection.
type Header struct {
	Client, Target netip.AddrPort // of one family; otherwise the header has no addresses
	Node, User     string
	Tags           []string
}

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// The second half of byte 13 is the transport: STREAM.
const (
	versionProxy = 0x21
	unspecified  = 0x00
	tcpOverIPv4  = 0x11
	tcpOverIPv6  = 0x21
)

// maxValue bounds the value of a TLV, in bytes, so that a header fits into the empty buffer of any socket.
const maxValue = 512

// Bytes returns the header.
func (h Header) Bytes() []byte {
	b := append([]byte(signature), versionProxy, unspecified, 0, 0)
	client, target := h.Client.Addr().Unmap(), h.Target.Addr().Unmap()
	if client.IsValid() && client.Is4() == target.Is4() {
		b[13] = tcpOverIPv6
		if client.Is4() {
			b[13] = tcpOverIPv4
		}
		b = append(b, client.AsSlice()...)
		b = append(b, target.AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, h.Client.Port())
		b = binary.BigEndian.AppendUint16(b, h.Target.Port())
	}
	b = appendTLV(b, TypeNode, h.Node)
	b = appendTLV(b, TypeUser, h.User)
	b = appendTLV(b, TypeTags, joined(h.Tags))
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-16))
	return b
}

// appendTLV appends a TLV. An empty value has none, and neither has one that is too long: a part of a name is
// another name.
func appendTLV(b []byte, kind byte, value string) []byte {
	if value == "" || len(value) > maxValue {
		return b
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

// joined returns as many whole tags as fit.
func joined(tags []string) string {
	s := ""
	for _, tag := range tags {
		if len(s)+1+len(tag) > maxValue {
			break
		}
		if s != "" {
			s += ","
		}
		s += tag
	}
	return s
}

// Target is a set of targets that get the header.
type Target struct {
	Prefix netip.Prefix
	Port   uint16
}

// Contains reports whether a target is in the set.
func (t Target) Contains(a netip.AddrPort) bool {
	return t.Port == a.Port() && t.Prefix.Contains(a.Addr())
}

// ParseTarget reads CIDR:PORT, such as "10.0.3.0/24:443" or "2001:db8::/64:443", or an address and port.
func ParseTarget(s string) (Target, error) {
	malformed := fmt.Errorf("%q is not CIDR:PORT: write one such as 10.0.3.0/24:443", s)
	if a, err := netip.ParseAddrPort(s); err == nil && a.Port() != 0 && a.Addr().Zone() == "" && !a.Addr().Is4In6() {
		return Target{netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), a.Port()}, nil
	}
	cidr, number, ok := strings.CutLast(s, ":")
	if !ok {
		return Target{}, malformed
	}
	if inner, ok := strings.CutPrefix(cidr, "["); ok {
		if cidr, ok = strings.CutSuffix(inner, "]"); !ok {
			return Target{}, malformed
		}
	}
	p, err := netip.ParsePrefix(cidr)
	port, portErr := strconv.ParseUint(number, 10, 16)
	switch {
	case err != nil || portErr != nil || port == 0 || p.Addr().Is4In6():
		return Target{}, malformed
	case p != p.Masked():
		return Target{}, fmt.Errorf("%q has bits behind its prefix length: use %s:%d", s, p.Masked(), port)
	}
	return Target{p, uint16(port)}, nil
}
