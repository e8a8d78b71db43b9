package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// SOCKS5 (RFC 1928) without authentication: CONNECT and UDP ASSOCIATE.
const (
	socksVersion   = 5
	noAuth         = 0
	noneAcceptable = 0xff

	commandConnect   = 1
	commandAssociate = 3

	typeIPv4 = 1
	typeName = 3
	typeIPv6 = 4
)

// socksReply is the REP field of a reply.
type socksReply byte

const (
	replySuccess       socksReply = 0
	replyFailure       socksReply = 1
	replyNotAllowed    socksReply = 2
	replyUnreachable   socksReply = 4
	replyRefused       socksReply = 5
	replyExpired       socksReply = 6
	replyNoSuchCommand socksReply = 7
	replyNoSuchAddress socksReply = 8
)

var (
	errNotSOCKS5   = errors.New("not a SOCKS5 request")
	errAddressType = errors.New("an unknown type of address")
)

// openSOCKS5 opens the SOCKS5 proxy, whose datagrams have the same port, and shares its listener with the HTTP proxy if
// that has the same address.
func (s *Server) openSOCKS5(at string) error {
	var associations *associations // set before the first connection is accepted
	ready := make(chan struct{})
	bound, err := s.listenTCP(at, func(c *client) {
		<-ready
		if associations == nil { // a drain or a failure was first
			c.Reset()
			return
		}
		if s.cfg.HTTP == at && !startsSOCKS5(c) {
			s.serveHTTP(c)
			return
		}
		s.serveSOCKS5(c, associations)
	})
	defer close(ready)
	if err != nil {
		return err
	}
	associations, err = s.openAssociations(bound.String())
	return err
}

// startsSOCKS5 reads the first byte ahead. A connection without one in time is left to the HTTP proxy, which ends it.
func startsSOCKS5(c *client) bool {
	c.SetReadDeadline(time.Now().Add(handshakeTimeout))
	defer c.SetReadDeadline(time.Time{})
	var first [1]byte
	n, _ := c.TCPConn.Read(first[:])
	c.seen = append(c.seen, first[:n]...)
	return n == 1 && first[0] == socksVersion
}

func (s *Server) serveSOCKS5(c *client, a *associations) {
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	command, to, err := readSOCKS5(c)
	if err != nil {
		s.metrics.failed("tcp", invalid)
		if errors.Is(err, errAddressType) {
			c.Write(encodeReply(replyNoSuchAddress, netip.AddrPort{}))
		}
		c.Close()
		return
	}
	c.SetDeadline(time.Time{})
	switch command {
	case commandConnect:
		f, err := s.dial(s.ctx, origin{c.addr, viaSOCKS5}, "tcp", to)
		if err != nil {
			c.Write(encodeReply(replyFor(err), netip.AddrPort{}))
			c.Close()
			return
		}
		if _, err := c.Write(encodeReply(replySuccess, addrPort(f.LocalAddr()))); err != nil {
			f.Close()
			c.Close()
			return
		}
		join(c, f)
	case commandAssociate:
		a.serve(c, to)
	default:
		c.Write(encodeReply(replyNoSuchCommand, netip.AddrPort{}))
		c.Close()
	}
}

// readSOCKS5 reads a program's greeting, answers it, and reads the request: its command, and the target as host:port.
func readSOCKS5(rw io.ReadWriter) (command byte, target string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return 0, "", err
	}
	if head[0] != socksVersion {
		return 0, "", errNotSOCKS5
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(rw, methods); err != nil {
		return 0, "", err
	}
	if !slices.Contains(methods, noAuth) {
		rw.Write([]byte{socksVersion, noneAcceptable})
		return 0, "", fmt.Errorf("%w without authentication", errNotSOCKS5)
	}
	if _, err := rw.Write([]byte{socksVersion, noAuth}); err != nil {
		return 0, "", err
	}
	var request [3]byte
	if _, err := io.ReadFull(rw, request[:]); err != nil {
		return 0, "", err
	}
	if request[0] != socksVersion {
		return 0, "", errNotSOCKS5
	}
	target, err = readAddress(rw)
	return request[1], target, err
}

// readAddress reads ATYP, an address and a port.
func readAddress(r io.Reader) (string, error) {
	var b [256]byte
	read := func(n int) ([]byte, error) {
		_, err := io.ReadFull(r, b[:n])
		return b[:n], err
	}
	kind, err := read(1)
	if err != nil {
		return "", err
	}
	var host string
	switch kind[0] {
	case typeIPv4, typeIPv6:
		size := map[byte]int{typeIPv4: 4, typeIPv6: 16}[kind[0]]
		raw, err := read(size)
		if err != nil {
			return "", err
		}
		a, _ := netip.AddrFromSlice(raw)
		host = a.Unmap().String()
	case typeName:
		size, err := read(1)
		if err != nil {
			return "", err
		}
		raw, err := read(int(size[0]))
		if err != nil {
			return "", err
		}
		host = string(raw)
	default:
		return "", errAddressType
	}
	raw, err := read(2)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(raw)))), nil
}

// encodeReply returns a reply with the address that the router uses.
func encodeReply(code socksReply, bound netip.AddrPort) []byte {
	return appendAddress([]byte{socksVersion, byte(code), 0}, bound)
}

// appendAddress appends ATYP, an address and a port; zeros for none.
func appendAddress(b []byte, a netip.AddrPort) []byte {
	addr := a.Addr().Unmap()
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	kind := byte(typeIPv6)
	if addr.Is4() {
		kind = typeIPv4
	}
	b = append(append(b, kind), addr.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// replyFor returns the reply for an error of a dial.
func replyFor(err error) socksReply {
	switch reasonOf(err) {
	case forbidden:
		return replyNotAllowed
	case notFound, unreachable:
		return replyUnreachable
	case refused:
		return replyRefused
	case timedOut:
		return replyExpired
	case invalid, limited, other:
	}
	return replyFailure
}
