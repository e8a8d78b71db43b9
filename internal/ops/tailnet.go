package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
)

// TailnetAccess decides which peers may read the router's status on the tailnet.
type TailnetAccess struct {
	// Allowed reports whether the peer with an address may. It is asked for each connection and
	// each request, so that a change of the tailnet's policy applies to open connections.
	Allowed func(client netip.Addr) bool
	// Names returns the node's names in the tailnet. A request for any other name is refused: the
	// script of a page that a reader has open could otherwise point a name of its own here, and
	// read the answers (DNS rebinding).
	Names func() []string
	// Fix tells a peer that may not how to get access.
	Fix string
	// MayProbe reports whether the peer with an address may ask why a flow fails, and ProbeFix tells
	// one that may not how to get access.
	MayProbe func(client netip.Addr) bool
	ProbeFix string
}

// ServeTailnet serves the endpoints on ln, a listener on the tailnet, within [TailnetBounds] and
// until ctx ends or ln is closed, to the peers that may read them. [Config.Private] does not apply
// to them.
func (s *Server) ServeTailnet(ctx context.Context, ln net.Listener, access TailnetAccess) error {
	ln = &strangersListener{Listener: ln, allowed: access.Allowed}
	server, g := guarded(ln, TailnetBounds, refusals(s.cfg.Registerer, "tailnet"), http.MaxBytesHandler(access.guard(s.handler()), 0), writeTimeout, s.cfg.Logger)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(g); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serving HTTP on the tailnet, port %s: %w", ln.Addr(), err)
	}
	return nil
}

func (a TailnetAccess) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !a.Allowed(plain(from.Addr())) {
			http.Error(w, "this node may not read the router's status: "+a.Fix, http.StatusForbidden)
			return
		}
		if !a.isName(r.Host) {
			http.Error(w, "the router has another name: open it by its address, or its name in the tailnet", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), grantedKey{}, a)))
	})
}

// isName reports whether the host of a request is an address, or a name of the node.
func (a TailnetAccess) isName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	host = strings.TrimSuffix(host, ".")
	for _, name := range a.Names() {
		if name != "" && strings.EqualFold(host, strings.TrimSuffix(name, ".")) {
			return true
		}
	}
	return false
}

// plain returns an address in one form: IPv4 not mapped into IPv6, and without a zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// maxStrangers bounds the connections of all peers together that may not read the status, so that
// they leave room for those who may. They get an answer that names what they lack.
const maxStrangers = 8

// strangersListener refuses connections of further such peers.
type strangersListener struct {
	net.Listener
	allowed   func(netip.Addr) bool
	strangers atomic.Int32
}

// Accept implements [net.Listener].
func (l *strangersListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && l.allowed(plain(from.Addr())) {
			return c, nil
		}
		if l.strangers.Add(1) <= maxStrangers {
			return &strangerConn{Conn: c, listener: l}, nil
		}
		l.strangers.Add(-1)
		c.Close()
	}
}

// strangerConn ends its count when it is closed.
type strangerConn struct {
	net.Conn
	listener *strangersListener
	once     sync.Once
}

// Close implements [net.Conn].
func (c *strangerConn) Close() error {
	c.once.Do(func() { c.listener.strangers.Add(-1) })
	return c.Conn.Close()
}

// grantedKey is the key of the [TailnetAccess] in the context of requests from peers that may read
// everything.
type grantedKey struct{}

func isGranted(r *http.Request) bool { return r.Context().Value(grantedKey{}) != nil }
