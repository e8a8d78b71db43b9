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

// serveLocalAPI serves the LocalAPI to the stock `tailscale` command. The router works
// without it where the socket cannot be created, as on a read-only file system.
func (n *Node) serveLocalAPI() {
	path := n.cfg.Socket
	if path == "" {
		return
	}
	ln, err := safesocket.Listen(path)
	if errors.Is(err, syscall.EROFS) {
		// As the documentation recommends; there is nothing to fix.
		n.log.Info("no LocalAPI socket: the tailscale command cannot reach this router, since the file system is read-only; `router status` works without it", "path", path)
		return
	}
	if err != nil {
		n.log.Warn("no LocalAPI socket: the tailscale command cannot reach this router", "path", path, "err", err,
			"fix", "mount a writable volume there or set ROUTER_SOCKET; `router status` works without it")
		return
	}
	ln = &boundListener{Listener: ln, limit: MaxLocalAPIConns}
	srv := ipnserver.New(n.engineLogf(), logid.PublicID{}, n.sys.Bus.Get(), n.sys.NetMon.Get())
	srv.SetLocalBackend(n.lb)
	n.wg.Go(func() {
		if err := srv.Run(n.ctx, ln); err != nil && n.ctx.Err() == nil {
			n.log.Warn("LocalAPI stopped", "err", err)
		}
	})
	context.AfterFunc(n.ctx, func() { ln.Close() })
}

// MaxLocalAPIConns bounds the open connections of the LocalAPI socket, each of which needs a
// file descriptor.
const MaxLocalAPIConns = 32

// boundListener closes its oldest connection when one more than limit is accepted. It does
// not wrap connections: the engine needs the socket to identify the process at its other end.
type boundListener struct {
	net.Listener
	limit int
	open  []net.Conn // only Accept uses it; some may be closed already
}

// Accept implements [net.Listener].
func (b *boundListener) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b.open = append(slices.DeleteFunc(b.open, closed), c)
	if len(b.open) > b.limit {
		b.open[0].Close()
		b.open = b.open[1:]
	}
	return c, nil
}

// closed reports whether this side has closed the connection.
func closed(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	return err != nil || errors.Is(raw.Control(func(uintptr) {}), net.ErrClosed)
}
