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
	Kind   Kind
	Client netip.Addr     // the address that counts as its node's
	Source netip.Addr     // the address that the client sends from
	Target netip.AddrPort // to dial
	Header []byte         // for the target to read first; nil for none
}

// Kind is what a front does with a connection.
type Kind byte

const (
	TLS   Kind = iota // terminate TLS
	HTTP              // answer HTTP requests
	HTTPS             // terminate TLS, and answer HTTP requests
)

// The size of a Flow in bytes: the kind, three addresses in 16 bytes each and a port, and its bound with a header.
const (
	fixedFlow = 51
	maxFlow   = 2048
)

// Bytes encodes a Flow: its size in two bytes, big endian, the kind, the client's address, the source, the target's address and
// port, and the header.
func (f Flow) Bytes() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(fixedFlow+len(f.Header)))
	b = append(b, byte(f.Kind))
	for _, a := range []netip.Addr{f.Client, f.Source, f.Target.Addr()} {
		text := a.As16()
		b = append(b, text[:]...)
	}
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
	address := func(at int) netip.Addr { return netip.AddrFrom16([16]byte(b[at : at+16])).Unmap() }
	f := Flow{
		Kind: Kind(b[0]), Client: address(1), Source: address(17),
		Target: netip.AddrPortFrom(address(33), binary.BigEndian.Uint16(b[49:])),
	}
	if f.Kind > HTTPS {
		return Flow{}, errFlow
	}
	if size > fixedFlow {
		f.Header = b[fixedFlow:]
	}
	return f, nil
}
