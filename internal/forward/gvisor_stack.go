//go:build !omit_gvisor

package forward

import (
	"fmt"
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

// linkEndpoint connects the stack with the link: packets from peers enter the stack by inject,
// and the stack's own leave it by WritePackets, on goroutines of the stack, or of packet delivery
// for answers.
type linkEndpoint struct {
	link       *link
	mtu        uint32
	dispatcher stack.NetworkDispatcher // set by Attach, before the first packet
	stack      *stack.Stack            // set by newStack
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
		out := outgoing{run: stackPacket{p.IncRef()}}
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

// stackPacket is a packet of the stack, or a run of segments, with a reference of its own.
type stackPacket struct{ *stack.PacketBuffer }

func (p stackPacket) release() { p.DecRef() }

// addTo implements [packetRun]. The stack left the checksums of TCP out, and only those.
func (p stackPacket) addTo(from int, to *packet.Slab) (n int, all bool) {
	if p.TransportProtocolNumber != header.TCPProtocolNumber {
		b := to.Add(p.Size())
		if b == nil {
			return 0, false
		}
		for _, piece := range p.AsSlices() {
			b = b[copy(b, piece):]
		}
		return 1, true
	}
	run := packet.SegmentRun{
		IP: p.NetworkHeader().Slice(), TCP: p.TransportHeader().Slice(),
		Pieces: p.AsSlices(), Size: p.Data().Size(), MSS: p.Data().Size(),
	}
	run.Skip = len(run.IP) + len(run.TCP)
	if p.GSOOptions.Type != stack.GSONone {
		run.MSS = int(p.GSOOptions.MSS)
	}
	return run.Split(from, to)
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

// networkOf returns the stack's number for a packet's IP version.
func networkOf(p *packet.Packet) tcpip.NetworkProtocolNumber {
	if p.Src.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
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
