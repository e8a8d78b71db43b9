//go:build !omit_gvisor

package forward

import (
	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Single hands the stack a copy of a packet whose checksums are verified. It implements
// [packet.Sink], like Merged.
func (e *linkEndpoint) Single(p *packet.Packet) { e.inject(p, buffer.MakeWithData(p.Raw)) }

// Merged hands the stack several segments as one packet. The data is copied once, into one
// buffer of the stack, from which the target's socket is written.
//
// gVisor's own coalescing (package gro) chains the packets instead, and each piece is then
// counted, cloned and copied separately.
func (e *linkEndpoint) Merged(run *packet.Coalescer) {
	view := buffer.NewView(run.Len())
	_ = run.Write(view) // a view has room for everything
	e.inject(run.First(), buffer.MakeWithView(view))
}

// inject hands data to the stack; p has its addresses.
func (e *linkEndpoint) inject(p *packet.Packet, data buffer.Buffer) {
	number := networkOf(p)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: data})
	pkt.NetworkProtocolNumber = number
	pkt.RXChecksumValidated = true
	e.dispatcher.DeliverNetworkPacket(number, pkt)
	pkt.DecRef()
}
