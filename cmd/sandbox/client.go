package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/net/socks5"
	"tailscale.com/tsnet"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// client is a node that uses the router, as a laptop does. It runs in this process;
// other programs use it through a SOCKS5 proxy on loopback.
type client struct {
	node  *tsnet.Server
	local *local.Client
	names *net.Resolver // queries the resolver of the VPC, through the tailnet
	socks net.Listener
}

// joinTailnet starts a client that accepts routes.
func joinTailnet(ctx context.Context, control tailnettest.Control, key tailnettest.Key, dir string) (_ *client, err error) {
	quiet := func(string, ...any) {}
	c := &client{node: &tsnet.Server{
		ControlURL: control.ControlURL(),
		AuthKey:    key.Value.Reveal(),
		Ephemeral:  true,
		Hostname:   "laptop",
		Dir:        dir,
		Logf:       quiet,
		UserLogf:   quiet,
	}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if _, err := c.node.Up(ctx); err != nil {
		return nil, fmt.Errorf("joining the tailnet: %w", err)
	}
	if c.local, err = c.node.LocalClient(); err != nil {
		return nil, err
	}
	accept := &ipn.MaskedPrefs{Prefs: ipn.Prefs{RouteAll: true}, RouteAllSet: true}
	if _, err := c.local.EditPrefs(ctx, accept); err != nil {
		return nil, fmt.Errorf("accepting routes: %w", err)
	}
	c.names = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.dial(ctx, "udp", resolver.String())
	}}
	if c.socks, err = listenNear("127.0.0.1:1055"); err != nil {
		return nil, fmt.Errorf("listening for the SOCKS5 proxy: %w", err)
	}
	proxy := &socks5.Server{Dialer: c.dial, Logf: quiet}
	go proxy.Serve(c.socks)
	return c, nil
}

// dial opens a connection through the tailnet only. [tsnet.Server.Dial] would use the
// operating system's network if the tailnet has no route.
func (c *client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := c.resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	dialer := c.node.Sys().Dialer.Get()
	if strings.HasPrefix(network, "udp") {
		return dialer.NetstackDialUDP(ctx, target)
	}
	return dialer.NetstackDialTCP(ctx, target)
}

func (c *client) resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		found, err := c.names.LookupNetIP(ctx, "ip4", strings.TrimSuffix(host, ".")+".")
		if err != nil {
			return netip.AddrPort{}, err
		}
		host = found[0].Unmap().String()
	}
	return netip.ParseAddrPort(net.JoinHostPort(host, port))
}

// awaitRoutes waits until one peer is the primary router of all routes.
func (c *client) awaitRoutes(ctx context.Context, routes []netip.Prefix) error {
	return testwait.For(ctx, "the routes at the client", func(ctx context.Context) error {
		st, err := c.local.Status(ctx)
		if err != nil {
			return err
		}
		for _, p := range st.Peer {
			served := func(route netip.Prefix) bool {
				return p.PrimaryRoutes != nil && slices.Contains(p.PrimaryRoutes.AsSlice(), route)
			}
			if !slices.ContainsFunc(routes, func(r netip.Prefix) bool { return !served(r) }) {
				return nil
			}
		}
		return fmt.Errorf("no peer is the primary router of all of %v", routes)
	})
}

// get fetches a page through the tailnet and returns its first line.
func (c *client) get(ctx context.Context, url string) (string, error) {
	return get(ctx, &http.Transport{DialContext: c.dial, DisableKeepAlives: true}, url)
}

// getByProxy fetches a page as `curl -x` does, through the SOCKS5 proxy.
func (c *client) getByProxy(ctx context.Context, page string) (string, error) {
	proxy, err := url.Parse(c.proxyURL())
	if err != nil {
		return "", err
	}
	return get(ctx, &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, page)
}

// proxyURL returns the URL for `curl -x`. With "socks5h", the proxy resolves names.
func (c *client) proxyURL() string { return "socks5h://" + c.socks.Addr().String() }

func get(ctx context.Context, t http.RoundTripper, page string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return "", err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	line, _, _ := strings.Cut(string(body), "\n")
	return fmt.Sprintf("%s %q", resp.Status, line), err
}

// closeTimeout bounds the close of the node, whose network stack can deadlock with
// connections open. The process exits soon afterwards.
const closeTimeout = 3 * time.Second

func (c *client) close() {
	if c.socks != nil {
		c.socks.Close()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.node.Close()
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
}

// listenNear listens on the address or, if its port is in use, on any free port.
func listenNear(address string) (net.Listener, error) {
	if ln, err := net.Listen("tcp", address); err == nil {
		return ln, nil
	}
	return net.Listen("tcp", "127.0.0.1:0")
}
