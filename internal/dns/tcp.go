package dns

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	tcpIdle      = 30 * time.Second // between the queries of a connection (RFC 7766)
	tcpMessage   = 5 * time.Second  // for a query that has begun, and for an answer
	maxPipelined = 32               // queries of one connection that wait for an answer
)

// ServeTCP answers the queries of a client's connection, in the order in which the answers are there,
// until the client is idle or ends it, or ctx ends. It closes conn.
func (s *Server) ServeTCP(ctx context.Context, conn net.Conn, client netip.AddrPort) {
	defer conn.Close()
	release, ok := s.reserveConnection(client)
	if !ok {
		return
	}
	defer release()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	// A query takes a place until its answer is written, so that answers never block; while all
	// are taken, nothing is read.
	places := make(chan struct{}, maxPipelined)
	answers := make(chan []byte, maxPipelined)
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer conn.Close() // a client that does not read also ends the reader
		for b := range answers {
			if b != nil && writeFrame(conn, b) != nil {
				break
			}
			<-places
		}
	}()
	for {
		msg, err := readQuery(conn)
		if err != nil {
			break
		}
		select {
		case places <- struct{}{}:
		case <-written:
			return
		}
		s.Handle(client, true, msg, func(b []byte) { answers <- b })
	}
	// A client may end its direction before it has the answers.
	for range maxPipelined {
		select {
		case places <- struct{}{}:
		case <-written:
			return
		}
	}
	close(answers)
	<-written
}

// readQuery reads a query from a client that may be idle before.
func readQuery(conn net.Conn) ([]byte, error) {
	var length [2]byte
	if err := conn.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, length[:1]); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(tcpMessage)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, length[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n < headerSize {
		return nil, io.ErrUnexpectedEOF
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(conn, msg)
	return msg, err
}

// writeFrame writes a message over TCP, in one call so that it can leave in one segment.
func writeFrame(conn net.Conn, msg []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(tcpMessage)); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	_, err := conn.Write(append(b, msg...))
	return err
}

// reserveConnection counts a connection of a client, unless there are too many.
func (s *Server) reserveConnection(client netip.AddrPort) (release func(), ok bool) {
	addr := s.cfg.Peer(client.Addr())
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.limiter.peer(addr, now)
	if p == nil || s.closed || p.connections >= s.cfg.Limits.PeerConnections || s.connections >= s.cfg.Limits.Connections {
		s.metrics.connectionsRefused.Inc()
		return nil, false
	}
	p.connections++
	s.connections++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.connections--
		s.connections--
	}, true
}
