package forward

import (
	"context"
	"net"
	"net/netip"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ownStack is the TCP of the node's own addresses: a second stack, so that a listener never
// takes a connection that is to be forwarded to the same port of a target. Only packets for the
// node's own addresses are delivered to it.
type ownStack struct {
	stack    *stack.Stack
	endpoint *linkEndpoint
}

func newOwnStack(l *link, mtu int) (ownTCP, error) {
	endpoint := &linkEndpoint{link: l, mtu: uint32(mtu)}
	s, err := newStack(endpoint)
	if err != nil {
		return nil, err
	}
	return &ownStack{stack: s, endpoint: endpoint}, nil
}

func (s *ownStack) deliver(p *packet.Packet) { s.endpoint.inject(p, buffer.MakeWithData(p.Raw)) }

// listen listens on both families.
func (s *ownStack) listen(port uint16) (net.Listener, error) {
	return gonet.ListenTCP(s.stack, tcpip.FullAddress{NIC: nicID, Port: port}, header.IPv6ProtocolNumber)
}

func (s *ownStack) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	number := header.IPv6ProtocolNumber
	if from.Is4() {
		number = header.IPv4ProtocolNumber
	}
	full := func(a netip.AddrPort) tcpip.FullAddress {
		return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
	}
	c, err := gonet.DialTCPWithBind(ctx, s.stack, full(netip.AddrPortFrom(from, 0)), full(to), number)
	if err != nil {
		return nil, err // not a nil *TCPConn in the interface
	}
	return c, nil
}

func (s *ownStack) close() { s.stack.Close() }
