package egress

import (
	"errors"
	"net"
	"time"
)

// listenTCP binds a listener and serves each admitted connection with serve, which closes it.
func (s *Server) listenTCP(at string, serve func(*client)) error {
	address, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		return err
	}
	ln, err := net.ListenTCP("tcp", address)
	if err != nil {
		return err
	}
	s.cfg.Opened(ln.Addr())
	s.mu.Lock()
	s.listeners = append(s.listeners, ln)
	s.mu.Unlock()
	s.run(func() { s.accept(ln, serve) })
	return nil
}

// acceptPause follows a failure to accept, such as a lack of open files.
const acceptPause = 50 * time.Millisecond

func (s *Server) accept(ln *net.TCPListener, serve func(*client)) {
	for {
		conn, err := ln.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.cfg.Logger.Warn("accepting a connection into the tailnet failed", "listen", ln.Addr().String(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.ctx.Done():
			}
			continue
		}
		c, ok := s.admitted.admit(conn)
		if !ok {
			s.metrics.failed("tcp", limited)
			conn.SetLinger(0)
			conn.Close()
			continue
		}
		s.run(func() { serve(c) })
	}
}

// listenUDP binds a UDP socket at an address. The caller reads it until it is closed.
func (s *Server) listenUDP(at string) (*net.UDPConn, error) {
	address, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		return nil, err
	}
	s.cfg.Opened(conn.LocalAddr())
	s.mu.Lock()
	s.packets = append(s.packets, conn)
	s.mu.Unlock()
	return conn, nil
}
