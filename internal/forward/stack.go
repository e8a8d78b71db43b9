package forward

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const nicID = 1

// A connection whose client no longer answers ends after maxRetries retransmissions, or window
// probes: after 160 s if the round-trip time is short, and 300 s if it is long. RFC 9293,
// section 3.8.3 (R2), asks for at least 100 s, and RFC 6298, section 2.5, for a maxRTO of at
// least 60 s. A user timeout would also end connections whose client answers probes and only
// takes no data.
const (
	maxRTO     = 60 * time.Second
	maxRetries = 9
)

// newStack returns the TCP/IP stack that terminates the clients' connections. It has no
// address: it accepts packets to any (promiscuous) and answers from any (spoofing), so that a
// target costs nothing.
func newStack(ep *linkEndpoint) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	sack := tcpip.TCPSACKEnabled(true)
	// gVisor's RACK retransmits spuriously (tailscale issue 9707), and its cubic overflows
	// its window (gVisor issue 11632).
	rack := tcpip.TCPRecovery(0)
	control := tcpip.CongestionControlOption("reno")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: initialBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: initialBuffer, Max: maxBuffer}
	rto, retries := tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(maxRetries)
	// In TIME-WAIT, a connection that its target closed first would keep the client's
	// 4-tuple for 60 s, and drop a new SYN on it. Without TIME-WAIT a late segment gets a
	// reset; it cannot be mistaken for one of the new connection, whose sequence numbers
	// differ.
	wait := tcpip.TCPTimeWaitTimeoutOption(0)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &rack, &control, &receive, &send, &rto, &retries, &wait} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return nil, fmt.Errorf("setting %T: %v", option, err)
		}
	}
	if err := s.CreateNIC(nicID, ep); err != nil {
		return nil, fmt.Errorf("creating interface: %v", err)
	}
	s.SetPromiscuousMode(nicID, true)
	s.SetSpoofing(nicID, true)
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	ep.stack = s
	return s, nil
}

// linkEndpoint connects the stack with the link.
type linkEndpoint struct {
	link        *link
	mtu         uint32
	dispatcher  stack.NetworkDispatcher
	stack       *stack.Stack
	pendingSYNs atomic.Int32 // SYNs that wait until an old connection is gone
}

func (e *linkEndpoint) MTU() uint32                             { return e.mtu }
func (e *linkEndpoint) SetMTU(mtu uint32)                       { e.mtu = mtu }
func (e *linkEndpoint) MaxHeaderLength() uint16                 { return 0 }
func (e *linkEndpoint) LinkAddress() tcpip.LinkAddress          { return "" }
func (e *linkEndpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *linkEndpoint) Attach(d stack.NetworkDispatcher)        { e.dispatcher = d }
func (e *linkEndpoint) IsAttached() bool                        { return e.dispatcher != nil }
func (e *linkEndpoint) Wait()                                   {}
func (e *linkEndpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (e *linkEndpoint) AddHeader(*stack.PacketBuffer)           {}
func (e *linkEndpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (e *linkEndpoint) Close()                                  {}
func (e *linkEndpoint) SetOnCloseAction(func())                 {}

// Capabilities reports that the data path verifies checksums before the stack and computes them
// after it.
func (e *linkEndpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityTXChecksumOffload
}

// GSOMaxSize and SupportedGSO let the stack hand over a run of segments as one packet.
func (e *linkEndpoint) GSOMaxSize() uint32               { return 1<<16 - 1 }
func (e *linkEndpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// WritePackets waits for room in the link, except for packets that packet delivery may be
// sending.
func (e *linkEndpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, p := range list.AsSlice() {
		out := outgoing{stack: p.IncRef()}
		switch {
		case e.link.offer(out):
		case e.isReply(p):
			e.link.reply(out)
		case !e.link.send(out):
			return n, &tcpip.ErrClosedForSend{}
		}
		n++
	}
	return n, nil
}

// isReply reports whether a packet may be the stack's immediate answer to one that is being
// delivered: a reset for an unknown connection, or an ICMP error. Packets of a connection are
// sent by goroutines that may wait.
func (e *linkEndpoint) isReply(pkt *stack.PacketBuffer) bool {
	if pkt.TransportProtocolNumber != tcp.ProtocolNumber {
		return true
	}
	segment, ip := header.TCP(pkt.TransportHeader().Slice()), pkt.Network()
	if segment.Flags()&header.TCPFlagRst == 0 {
		return false
	}
	return e.stack.FindTransportEndpoint(pkt.NetworkProtocolNumber, tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress: ip.SourceAddress(), LocalPort: segment.SourcePort(),
		RemoteAddress: ip.DestinationAddress(), RemotePort: segment.DestinationPort(),
	}, nicID) == nil
}

// deliverTCP hands a TCP packet from a peer to the stack, merged with others of its connection
// that are in order, unless a peer router takes it. Flush the delivery's run at the end of a
// batch.
func (e *linkEndpoint) deliverTCP(f *Forwarder, d *delivery) {
	p := &d.packet
	segment, err := p.Segment()
	if err != nil {
		f.drops.add(dropReasonOf(err), 1)
		return
	}
	number := networkOf(p)
	opens := packet.OpensConnection(segment)
	if f.needsLookup(d) && !opens && e.find(p, number, segment) == nil && f.handedOff(d) {
		return
	}
	if opens && e.closing(p, number, segment) {
		if e.pendingSYNs.Add(1) > maxPendingSYNs {
			e.pendingSYNs.Add(-1)
			f.drops.add(dropSYNLimit, 1) // the client retransmits it
			return
		}
		e.deferSYN(number, bytes.Clone(p.Raw), maxSYNRetries)
		return
	}
	d.tcp.Add(p, segment)
}

// dropReasonOf returns the reason of an error of [packet.Packet.Segment].
func dropReasonOf(err error) dropReason {
	if errors.Is(err, packet.ErrChecksum) {
		return dropChecksum
	}
	return dropMalformed
}

// networkOf returns the stack's number for a packet's IP version.
func networkOf(p *packet.Packet) tcpip.NetworkProtocolNumber {
	if p.Src.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// A client that reuses a port immediately sends its SYN right after the last acknowledgement of
// the previous connection. The stack would queue both for the old endpoint and reset the new
// connection when that endpoint closes: it looks for a listener, and a forwarder is not one. So
// the SYN is deferred until the old connection is gone.
const (
	synRetryEvery  = 2 * time.Millisecond
	maxSYNRetries  = 500
	maxPendingSYNs = 1024
)

// closing reports whether a SYN meets a connection with the same addresses and ports that at
// least one side has closed.
func (e *linkEndpoint) closing(p *packet.Packet, number tcpip.NetworkProtocolNumber, segment []byte) bool {
	ep := e.find(p, number, segment)
	if ep == nil {
		return false
	}
	switch ep.EndpointState() {
	case tcp.StateEstablished, tcp.StateSynRecv, tcp.StateSynSent, tcp.StateConnecting:
		return false // a retransmitted or forged SYN: the stack handles it
	default:
		return true
	}
}

// find returns the connection that a segment belongs to, or nil.
func (e *linkEndpoint) find(p *packet.Packet, number tcpip.NetworkProtocolNumber, segment []byte) *tcp.Endpoint {
	src, dst := packet.SegmentPorts(segment)
	ep, _ := e.stack.FindTransportEndpoint(number, tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress: tcpip.AddrFromSlice(p.Dst.AsSlice()), LocalPort: dst,
		RemoteAddress: tcpip.AddrFromSlice(p.Src.AsSlice()), RemotePort: src,
	}, nicID).(*tcp.Endpoint)
	return ep
}

// deferSYN delivers a SYN once the old connection is gone, or after a second in any case.
func (e *linkEndpoint) deferSYN(number tcpip.NetworkProtocolNumber, raw []byte, retries int) {
	time.AfterFunc(synRetryEvery, func() {
		var p packet.Packet
		if !p.Parse(raw) {
			e.pendingSYNs.Add(-1)
			return
		}
		if retries > 0 && e.closing(&p, number, p.Payload()) {
			e.deferSYN(number, raw, retries-1)
			return
		}
		e.pendingSYNs.Add(-1)
		e.Single(&p)
	})
}

// droppedByStack returns the number of packets that the stack dropped.
func (e *linkEndpoint) droppedByStack() uint64 {
	s := e.stack.Stats()
	n := uint64(0)
	for _, c := range []*tcpip.StatCounter{
		s.DroppedPackets, s.IP.MalformedPacketsReceived, s.IP.InvalidDestinationAddressesReceived,
		s.IP.InvalidSourceAddressesReceived, s.TCP.InvalidSegmentsReceived, s.TCP.ForwardMaxInFlightDrop,
	} {
		n += c.Value()
	}
	return n
}

// workers returns the number of goroutines that move bytes: one more than there are processors,
// because one may be waiting for the link.
func workers() int { return runtime.GOMAXPROCS(0) + 1 }
