package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"subnetrouter/internal/testwait"
)

// TestProxyProtocol: nginx and HAProxy read the client's tailnet address from the header, a target that speaks first gets
// the header and the identity in it, and a target that is not listed gets none.
func TestProxyProtocol(t *testing.T) {
	nginx, haproxy := needed(t, "nginx", "/usr/sbin"), needed(t, "haproxy", "/usr/sbin")
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{env: map[string]string{
		"ROUTER_PROXY_PROTOCOL": dbHost + "/32:8080," + dbHost + ":8081," + dbHost + ":8082,[" + w.host6.String() + "]:8080",
	}})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	dir := w.sharedDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conf := write("nginx.conf", fmt.Sprintf(`daemon off; error_log stderr; pid %[1]s/nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server {
		listen %[2]s:8080 proxy_protocol;
		listen [%[3]s]:8080 proxy_protocol;
		location / { return 200 "$proxy_protocol_addr $proxy_protocol_server_addr $proxy_protocol_server_port"; }
	}
}
`, dir, dbHost, w.host6))
	start(t, "nginx", w.vpc.Command(context.WithoutCancel(t.Context()), nginx, "-p", dir, "-c", conf))
	conf = write("haproxy.cfg", fmt.Sprintf(`defaults
	mode http
	timeout client 10s
	timeout server 10s
	timeout connect 10s
frontend main
	bind %s:8081 accept-proxy
	http-request return status 200 content-type text/plain lf-string "%%[src] %%[dst] %%[dst_port]"
`, dbHost))
	start(t, "haproxy", w.vpc.Command(context.WithoutCancel(t.Context()), haproxy, "-db", "-f", conf))

	own4, own6 := c.address("-4"), c.address("-6")
	for url, want := range map[string]string{
		"http://" + dbHost + ":8080/":             own4 + " " + dbHost + " 8080",
		"http://[" + w.host6.String() + "]:8080/": own6 + " " + w.host6.String() + " 8080",
		"http://" + dbHost + ":8081/":             own4 + " " + dbHost + " 8081",
		"http://" + dbHost + ":80/":               "hello from " + dbHost + " to " + routerVPC,
	} {
		testwait.Until(t, url, func() error {
			if out, code := c.sh("curl", "-gsS", "-m", "5", url); code != 0 || strings.TrimSpace(out) != want {
				return fmt.Errorf("got %q, want %q", out, want)
			}
			return nil
		})
	}

	// The identity, read without a client's byte.
	ln, err := w.vpc.Listen("tcp", dbHost+":8082")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	headers := make(chan []byte, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, 16)
		io.ReadFull(conn, b)
		rest := make([]byte, uint16(b[14])<<8|uint16(b[15]))
		io.ReadFull(conn, rest)
		headers <- append(b, rest...)
		io.Copy(io.Discard, conn)
	}()
	conn, err := w.client.Dial(t.Context(), "tcp", dbHost+":8082")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := <-headers
	if string(b[:14]) != "\r\n\r\n\x00\r\nQUIT\n\x21\x11" {
		t.Fatalf("header %q", b)
	}
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), uint16(b[24])<<8|uint16(b[25]))
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if from != netip.AddrPortFrom(local.Addr().Unmap(), local.Port()) {
		t.Errorf("the header has client %v, want %v", from, local)
	}
	if got, want := string(b[28:]), "\xe0\x00\x06laptop\xe2\x00\x0atag:laptop"; got != want {
		t.Errorf("the header has the identity %q, want %q", got, want)
	}
}

// address returns the client's first address in the tailnet, of a family: "-4" or "-6".
func (c *client) address(family string) string {
	out := strings.TrimSpace(c.tailscale("ip", family))
	first, _, _ := strings.Cut(out, "\n")
	return first
}
