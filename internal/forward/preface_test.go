package forward

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestPreface: the target reads the preface before the client's bytes, or before it sends its own if the client
// is silent; the preface counts as no byte of the flow.
func TestPreface(t *testing.T) {
	const preface = "PREFACE "
	got := make(chan string, 1)
	port := serveTCP(t, func(c *net.TCPConn) {
		b := make([]byte, len(preface))
		io.ReadFull(c, b)
		io.WriteString(c, "greeting")
		rest, _ := io.ReadAll(c)
		got <- string(b) + string(rest)
		c.Close()
	})
	for _, target := range targets(port) {
		finished := make(chan Flow, 1)
		asked := make(chan [3]netip.AddrPort, 1)
		c := newClient(t, func(cfg *Config) {
			cfg.Preface = func(client, dst, target netip.AddrPort, _ bool) []byte {
				asked <- [3]netip.AddrPort{client, dst, target}
				return []byte(preface)
			}
			cfg.Finished = func(f Flow) { finished <- f }
		})
		conn := c.mustDialTCP(target)
		conn.SetDeadline(time.Now().Add(patience))
		if b := make([]byte, 8); true {
			if _, err := io.ReadFull(conn, b); err != nil || string(b) != "greeting" {
				t.Errorf("%v: read %q, %v", target, b, err)
			}
		}
		body := strings.Repeat("body ", 1000)
		io.WriteString(conn, body)
		conn.CloseWrite()
		if s := <-got; s != preface+body {
			t.Errorf("%v: the target read %d bytes, %.20q", target, len(s), s)
		}
		conn.Close()
		f := <-finished
		if a := <-asked; a != [3]netip.AddrPort{f.Client, f.Address, f.Target} || f.ToVPCBytes != int64(len(body)) {
			t.Errorf("%v: asked about %v, flow %+v", target, a, f)
		}
	}
}
