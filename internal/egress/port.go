package egress

import "net"

// openPort forwards a TCP port to its target. A program whose target cannot be reached gets a reset, as from a closed
// port.
func (s *Server) openPort(p Port) error {
	_, err := s.listenTCP(p.Listen, func(c *client) {
		f, err := s.dial(s.ctx, origin{c.addr, viaPort}, "tcp", p.Target)
		if err != nil {
			s.cfg.Logger.Warn("connecting a forwarded port to its target failed", "listen", p.Listen, "target", p.Target, "err", err)
			c.Reset()
			return
		}
		join(c, f)
	})
	return err
}

// openUDPPort forwards the datagrams of each client of a UDP port to its target, and the answers back.
func (s *Server) openUDPPort(p Port) error {
	_, err := s.listenUDP(p.Listen, func(conn *net.UDPConn) {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				if isClosed(err) {
					return
				}
				continue
			}
			s.sessions.deliver(s.ctx, sessionKey{socket: conn, client: unmapped(from), target: p.Target}, viaPort, buf[:n], func(data []byte, _ net.Addr) {
				conn.WriteToUDPAddrPort(data, from)
			})
		}
	})
	return err
}
