package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"tailscale.com/net/socks5"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/tailnettest/stock"
	"subnetrouter/internal/testwait"
)

// client is a node that uses the router, as a laptop does: Tailscale's own tailscaled. Other
// programs use it through a SOCKS5 proxy on loopback.
type client struct {
	node  *stock.Client
	names *net.Resolver // queries the resolver of the VPC, through the tailnet
	socks net.Listener
}

// joinTailnet starts a client that accepts routes. program is the path of tailscaled.
func joinTailnet(ctx context.Context, program string, control tailnettest.Control, key tailnettest.Key, dir string) (_ *client, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := new(client)
	c.node, err = stock.StartClient(ctx, stock.ClientConfig{
		Program: program, Dir: dir, ControlURL: control.ControlURL(), Key: key.Value, Hostname: "laptop",
	})
	if err != nil {
		return nil, fmt.Errorf("joining the tailnet: %w", err)
	}
	c.names = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := c.node.Dial(ctx, "udp", resolver)
		if err != nil {
			return nil, err
		}
		return datagrams{conn}, nil
	}}
	if c.socks, err = listenNear("127.0.0.1:1055"); err != nil {
		c.close()
		return nil, fmt.Errorf("listening for the SOCKS5 proxy: %w", err)
	}
	proxy := &socks5.Server{Dialer: c.dial, Logf: func(string, ...any) {}}
	go proxy.Serve(c.socks)
	return c, nil
}

// datagrams shows [net.Resolver] that a connection is not a stream: it sends each query as it is.
type datagrams struct{ net.Conn }

func (datagrams) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errors.ErrUnsupported }
func (datagrams) WriteTo([]byte, net.Addr) (int, error)  { return 0, errors.ErrUnsupported }

// dial opens a connection through the tailnet.
func (c *client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := c.resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	return c.node.Dial(ctx, network, target)
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
		st, err := c.node.Local.Status(ctx)
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

func (c *client) close() {
	if c.socks != nil {
		c.socks.Close()
	}
	c.node.Close()
}

// listenNear listens on the address or, if its port is in use, on any free port.
func listenNear(address string) (net.Listener, error) {
	if ln, err := net.Listen("tcp", address); err == nil {
		return ln, nil
	}
	return net.Listen("tcp", "127.0.0.1:0")
}
