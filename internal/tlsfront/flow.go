package tlsfront

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Flow describes a connection to a front. The data path writes it in front of the client's bytes, so that the front dials
// the target for which the flow was admitted.
type Flow struct {
	Client netip.Addr     // the address that counts as its node's
	Target netip.AddrPort // to dial
	Header []byte         // for the target to read first; nil for none
}

// The size of a Flow in bytes: two addresses in 16 bytes each and a port, and its bound with a header.
const (
	fixedFlow = 34
	maxFlow   = 2048
)

// Bytes encodes a Flow: its size in two bytes, big endian, the client's address, the target's, the target's port, and the header.
func (f Flow) Bytes() []byte {
	client, target := f.Client.As16(), f.Target.Addr().As16()
	b := binary.BigEndian.AppendUint16(nil, uint16(fixedFlow+len(f.Header)))
	b = append(b, client[:]...)
	b = append(b, target[:]...)
	b = binary.BigEndian.AppendUint16(b, f.Target.Port())
	return append(b, f.Header...)
}

var errFlow = errors.New("the data path did not announce the connection")

// readFlow reads a Flow from the start of a stream, and nothing behind it.
func readFlow(in io.Reader) (Flow, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return Flow{}, fmt.Errorf("%w: %w", errFlow, err)
	}
	size := int(binary.BigEndian.Uint16(head))
	if size < fixedFlow || size > maxFlow {
		return Flow{}, errFlow
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(in, b); err != nil {
		return Flow{}, fmt.Errorf("%w: %w", errFlow, err)
	}
	f := Flow{
		Client: netip.AddrFrom16([16]byte(b[:16])).Unmap(),
		Target: netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[16:32])).Unmap(), binary.BigEndian.Uint16(b[32:])),
	}
	if size > fixedFlow {
		f.Header = b[fixedFlow:]
	}
	return f, nil
}
