package egress

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

const (
	// maxAssociations bounds the UDP associations, and maxAssociationsPerAddress those of one address.
	maxAssociations           = 128
	maxAssociationsPerAddress = 32
)

// associations are the UDP associations of the SOCKS5 proxy. They share one UDP socket, at the proxy's own port: a
// security group needs one rule, and the deny list one port. A datagram belongs to the association of its source; the
// first from a new source, to one of the same address that has no source yet.
type associations struct {
	server *Server
	socket *net.UDPConn

	mu   sync.Mutex // covers the fields below, and association.source
	list []*association
}

// association is a UDP association. It lasts as long as the connection that asked for it.
type association struct {
	ctx    context.Context
	addr   netip.Addr     // of the program
	port   uint16         // that the program has announced; 0: none
	source netip.AddrPort // of its datagrams; zero before the first
}

func (s *Server) openAssociations(at string) (*associations, error) {
	a := &associations{server: s}
	socket, err := s.listenUDP(at, a.receive)
	if err != nil {
		return nil, err
	}
	a.socket = socket
	return a, nil
}

// serve keeps an association until the program closes its connection.
func (t *associations) serve(c *client, announced string) {
	defer c.Close()
	ctx, cancel := context.WithCancel(t.server.ctx)
	defer cancel()
	a := &association{ctx: ctx, addr: c.addr.Addr()}
	if _, service, err := net.SplitHostPort(announced); err == nil {
		port, _ := strconv.ParseUint(service, 10, 16)
		a.port = uint16(port)
	}
	if !t.add(a) {
		t.server.metrics.failed("udp", limited)
		c.Write(encodeReply(replyFailure, netip.AddrPort{}))
		return
	}
	defer t.remove(a)
	bound := netip.AddrPortFrom(addrPort(c.LocalAddr()).Addr(), addrPort(t.socket.LocalAddr()).Port())
	if _, err := c.Write(encodeReply(replySuccess, bound)); err != nil {
		return
	}
	var ignored [256]byte
	for {
		if _, err := c.Read(ignored[:]); err != nil {
			return
		}
	}
}

func (t *associations) add(a *association) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	same := 0
	for _, x := range t.list {
		if x.addr == a.addr {
			same++
		}
	}
	if len(t.list) >= maxAssociations || same >= maxAssociationsPerAddress {
		return false
	}
	t.list = append(t.list, a)
	return true
}

func (t *associations) remove(a *association) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, x := range t.list {
		if x == a {
			t.list = append(t.list[:i], t.list[i+1:]...)
			return
		}
	}
}

// find returns the association of a datagram's source, or nil.
func (t *associations) find(source netip.AddrPort) *association {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found *association
	for _, a := range t.list {
		switch {
		case a.source == source:
			return a
		case a.addr != source.Addr() || a.source.IsValid():
		case a.port == source.Port(), found == nil && a.port == 0:
			found = a
		}
	}
	if found != nil {
		found.source = source
	}
	return found
}

// receive passes the programs' datagrams on. The socket may not be in t yet.
func (t *associations) receive(socket *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			if isClosed(err) {
				return
			}
			continue
		}
		source := unmapped(from)
		a := t.find(source)
		if a == nil {
			continue // not of a program that has asked
		}
		to, data, ok := parseDatagram(buf[:n])
		if !ok {
			t.server.metrics.failed("udp", invalid)
			continue
		}
		t.server.sessions.deliver(a.ctx, sessionKey{socket: socket, client: source, target: to}, viaSOCKS5, data, func(data []byte, remote net.Addr) {
			socket.WriteToUDPAddrPort(append(appendAddress([]byte{0, 0, 0}, addrPort(remote)), data...), from)
		})
	}
}

// parseDatagram returns the target and the data of a program's datagram. Fragments are refused (RFC 1928, section 7).
func parseDatagram(b []byte) (to string, data []byte, ok bool) {
	if len(b) < 4 || b[2] != 0 {
		return "", nil, false
	}
	r := bytes.NewReader(b[3:])
	to, err := readAddress(r)
	if err != nil {
		return "", nil, false
	}
	return to, b[len(b)-r.Len():], true
}
