package tailnet

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"

	"tailscale.com/ipn/ipnserver"
	"tailscale.com/safesocket"
	"tailscale.com/types/logid"
)

// serveLocalAPI lets the stock `tailscale` command talk to the node. It is a
// convenience: where the socket cannot be made (read-only file system), the
// router works without.
func (n *Node) serveLocalAPI() {
	path := n.cfg.Socket
	if path == "" {
		return
	}
	ln, err := safesocket.Listen(path)
	if err != nil {
		n.log.Warn("no LocalAPI socket: the tailscale command cannot reach this router", "path", path, "err", err,
			"fix", "mount a writable volume there or set ROUTER_SOCKET; `router status` works without it")
		return
	}
	ln = &boundListener{Listener: ln, most: MostLocalAPI}
	srv := ipnserver.New(n.engineLogf(), logid.PublicID{}, n.sys.Bus.Get(), n.sys.NetMon.Get())
	srv.SetLocalBackend(n.lb)
	n.wg.Go(func() {
		if err := srv.Run(n.ctx, ln); err != nil && n.ctx.Err() == nil {
			n.log.Warn("LocalAPI stopped", "err", err)
		}
	})
	context.AfterFunc(n.ctx, func() { ln.Close() })
}

// MostLocalAPI is how many connections the LocalAPI socket has at most: each takes a
// descriptor.
const MostLocalAPI = 32

// boundListener closes the connection that was accepted first when there is one too many.
// It returns connections as they are: the engine asks the socket who is at its other end.
type boundListener struct {
	net.Listener
	most int
	open []net.Conn // of Accept's goroutine; some may be closed
}

// Accept implements [net.Listener].
func (b *boundListener) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b.open = append(slices.DeleteFunc(b.open, closed), c)
	if len(b.open) > b.most {
		b.open[0].Close()
		b.open = b.open[1:]
	}
	return c, nil
}

// closed reports whether this side has closed a connection.
func closed(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	return err != nil || errors.Is(raw.Control(func(uintptr) {}), net.ErrClosed)
}
