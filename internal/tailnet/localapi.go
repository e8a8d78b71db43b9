package tailnet

import (
	"context"

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
	srv := ipnserver.New(n.engineLogf(), logid.PublicID{}, n.sys.Bus.Get(), n.sys.NetMon.Get())
	srv.SetLocalBackend(n.lb)
	n.wg.Go(func() {
		if err := srv.Run(n.ctx, ln); err != nil && n.ctx.Err() == nil {
			n.log.Warn("LocalAPI stopped", "err", err)
		}
	})
	context.AfterFunc(n.ctx, func() { ln.Close() })
}
