package tailnet

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/secret"

	"tailscale.com/types/ipproto"
)

// PeerDNSResult is the outcome of a DNS query that a peer sent to this node.
type PeerDNSResult string

// The results. The set is closed: the result is a metric's label.
const (
	PeerDNSAnswered PeerDNSResult = "answered"
	PeerDNSDenied   PeerDNSResult = "denied"    // no access rule lets the peer use the role
	PeerDNSLimited  PeerDNSResult = "limited"   // the peer sends too many
	PeerDNSInvalid  PeerDNSResult = "malformed" // the request
	PeerDNSFailed   PeerDNSResult = "failed"    // no answer of the task's resolver
)

// PeerDNSResults lists all results.
var PeerDNSResults = []PeerDNSResult{PeerDNSAnswered, PeerDNSDenied, PeerDNSLimited, PeerDNSInvalid, PeerDNSFailed}

// Bounds of the peer API. Those of connections are below those of the Forwarder in userspace mode, where
// its two ports share all connections of the node with the status page.
const (
	maxPeerConns    = 128
	maxConnsPerPeer = 16
	maxDNSMessage   = 1 << 16
	// peerDNSTimeout bounds the wait for the task's resolver.
	peerDNSTimeout = 5 * time.Second
)

// peerAPI serves /dns-query, which the clients of an exit node or app connector use (RFC 8484 over
// WireGuard), and nothing else. The engine's own peer API reserves and publishes the port. This
// one takes the connections to it in both modes, because the engine's needs gVisor's stack in
// userspace mode, and has more paths than a router should serve.
type peerAPI struct {
	node  *Node
	conns connCounts
}

// servePeerAPI listens on the ports that the engine publishes until the node closes.
func (n *Node) servePeerAPI() {
	api := &peerAPI{node: n, conns: connCounts{perPeer: map[netip.Addr]int{}}}
	srv := &http.Server{
		Handler: api, ConnState: api.conns.changed,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	defer srv.Close()
	for {
		s, changed := n.state.get()
		var missing <-chan time.Time
		for _, ip := range s.IPs {
			switch port, ok := n.lb.GetPeerAPIPort(ip); {
			case !ok: // the engine opens it soon
				missing = time.After(100 * time.Millisecond)
			case !n.listening.has(port):
				ln, err := n.Listen(port)
				if err != nil {
					n.log.Error("the DNS queries of peers cannot be answered", "port", port, "err", err)
					return
				}
				n.cfg.PeerAPIOpened(port)
				n.log.Info("answering the DNS queries of peers", "port", port)
				n.wg.Go(func() { srv.Serve(ln) })
			}
		}
		select {
		case <-changed:
		case <-missing:
		case <-n.ctx.Done():
			return
		}
	}
}

// ServeHTTP implements [http.Handler].
func (a *peerAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || r.URL.Path != "/dns-query" {
		http.NotFound(w, r)
		return
	}
	answer, code := a.answer(r, from)
	a.node.cfg.PeerDNSAnswered(code.result())
	if code != http.StatusOK {
		http.Error(w, http.StatusText(int(code)), int(code))
		return
	}
	w.Header().Set("Content-Type", dnsMessage)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.Write(answer)
}

const dnsMessage = "application/dns-message"

// status is the HTTP status of an answer.
type status int

func (s status) result() PeerDNSResult {
	switch s {
	case http.StatusOK:
		return PeerDNSAnswered
	case http.StatusForbidden:
		return PeerDNSDenied
	case http.StatusTooManyRequests:
		return PeerDNSLimited
	case http.StatusBadRequest:
		return PeerDNSInvalid
	default:
		return PeerDNSFailed
	}
}

func (a *peerAPI) answer(r *http.Request, from netip.AddrPort) ([]byte, status) {
	n := a.node
	// A browser sends these for a page that tries to reach this node from its visitor's network.
	if r.Referer() != "" || r.Header.Get("Origin") != "" || !n.isOwnHost(r.Host) || !n.mayUseInternet(from.Addr()) {
		return nil, http.StatusForbidden
	}
	query, err := readQuery(r)
	if err != nil {
		return nil, http.StatusBadRequest
	}
	leave, ok := n.cfg.AdmitPeerDNS(from.Addr())
	if !ok {
		return nil, http.StatusTooManyRequests
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), peerDNSTimeout)
	defer cancel()
	answer, err := n.sys.DNSManager.Get().Resolver().HandlePeerDNSQuery(ctx, query, from, n.mayResolve)
	if err != nil {
		n.log.Debug("a DNS query of a peer failed", "peer", from.Addr().String(), "err", secret.Clean(err.Error(), mostSaid))
		return nil, http.StatusBadGateway
	}
	if n.cfg.AppConnector {
		changed, err := n.connector.learn(answer, time.Now())
		if err != nil {
			n.log.Debug("no routes learned from an answer", "err", secret.Clean(err.Error(), mostSaid))
		}
		if changed {
			n.wakeAnnouncer()
		}
	}
	return answer, http.StatusOK
}

// readQuery reads the DNS message of a request, as RFC 8484 puts it there.
func readQuery(r *http.Request) ([]byte, error) {
	switch r.Method {
	case http.MethodGet:
		text := r.URL.Query().Get("dns")
		if text == "" || base64.RawURLEncoding.DecodedLen(len(text)) > maxDNSMessage {
			return nil, errors.New("no query, or too large a one")
		}
		return base64.RawURLEncoding.DecodeString(text)
	case http.MethodPost:
		if r.Header.Get("Content-Type") != dnsMessage {
			return nil, errors.New("not a DNS message")
		}
		query, err := io.ReadAll(io.LimitReader(r.Body, maxDNSMessage+1))
		if err == nil && len(query) > maxDNSMessage {
			err = errors.New("too large a query")
		}
		return query, err
	}
	return nil, errors.New("neither GET nor POST")
}

// isOwnHost reports whether a Host header names this node: by an address, or as "peer", as
// clients of the engine do.
func (n *Node) isOwnHost(host string) bool {
	if host == "peer" {
		return true
	}
	addr, err := netip.ParseAddrPort(host)
	s, _ := n.state.get()
	return err == nil && slices.Contains(s.IPs, addr.Addr())
}

// mayUseInternet reports whether the access rules let a peer use an exit node or app connector.
// Control has a rule for an address that stands for the Internet where the policy gives a peer
// access to autogroup:internet, or to a domain of an app connector.
func (n *Node) mayUseInternet(peer netip.Addr) bool {
	internet := netip.IPv4Unspecified()
	if peer.Is6() {
		internet = netip.MustParseAddr("2000::")
	}
	return n.AllowsFlow(uint8(ipproto.TCP), peer, netip.AddrPortFrom(internet, 53))
}

// mayResolve reports whether the tailnet lets this node resolve a name for peers. Control
// excludes names that clients must resolve themselves.
func (n *Node) mayResolve(name string) bool {
	m := n.lb.NetMapNoPeers()
	return m != nil && !excluded(name, m.DNS.ExitNodeFilteredSet)
}

// excluded reports whether a list has a name, or with a leading dot a parent domain of it.
func excluded(name string, list []string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	return slices.ContainsFunc(list, func(entry string) bool {
		if strings.HasPrefix(entry, ".") {
			return strings.HasSuffix(name, entry)
		}
		return entry != "" && name == entry
	})
}

// connCounts closes new connections past the bounds.
type connCounts struct {
	mu      sync.Mutex
	total   int
	perPeer map[netip.Addr]int
}

// changed is the server's ConnState. The server reports StateNew and StateClosed once for each
// connection, also for one that is closed here.
func (c *connCounts) changed(conn net.Conn, state http.ConnState) {
	if state != http.StateNew && state != http.StateClosed {
		return
	}
	var peer netip.Addr
	if p, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		peer = p.Addr()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateClosed {
		c.total--
		if c.perPeer[peer]--; c.perPeer[peer] <= 0 {
			delete(c.perPeer, peer)
		}
		return
	}
	c.total++
	c.perPeer[peer]++
	if c.total > maxPeerConns || c.perPeer[peer] > maxConnsPerPeer {
		conn.Close()
	}
}
