package egress

import (
	"errors"
	"net"
	"time"
)

// errDraining is the error of opening a listener in a drain.
var errDraining = errors.New("the server is draining")

// listenTCP binds a listener and serves each admitted connection with serve, which closes it. It returns the listener's
// address.
func (s *Server) listenTCP(at string, serve func(*client)) (net.Addr, error) {
	address, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		return nil, err
	}
	s.mu.Lock() // so that Drain finds the listener, or there is none
	defer s.mu.Unlock()
	if s.draining {
		return nil, errDraining
	}
	ln, err := net.ListenTCP("tcp", address)
	if err != nil {
		return nil, err
	}
	s.cfg.Opened(ln.Addr())
	s.listeners = append(s.listeners, ln)
	s.run(func() { s.accept(ln, serve) })
	return ln.Addr(), nil
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

// listenUDP binds a UDP socket at an address, and serves it with serve, which reads it until it is closed.
func (s *Server) listenUDP(at string, serve func(*net.UDPConn)) (*net.UDPConn, error) {
	address, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, errDraining
	}
	conn, err := net.ListenUDP("udp", address)
	if err != nil {
		return nil, err
	}
	s.cfg.Opened(conn.LocalAddr())
	s.packets = append(s.packets, conn)
	s.run(func() { serve(conn) })
	return conn, nil
}
