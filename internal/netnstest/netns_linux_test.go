package netnstest

import (
	"io"
	"strings"
	"testing"

	"subnetrouter/internal/testwait"
)

func TestHostsReachEachOtherAndNothingElse(t *testing.T) {
	n := New(t)
	lan := n.Switch("lan")
	a, b := n.Host("a"), n.Host("b")
	lan.Plug(a, "eth0", "198.51.100.1/24", "2001:db8::1/64")
	lan.Plug(b, "eth0", "198.51.100.2/24", "2001:db8::2/64")
	ctx := testwait.Context(t)

	for _, addr := range []string{"198.51.100.2:80", "[2001:db8::2]:80"} {
		ln, err := b.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			c, err := ln.Accept()
			if err == nil {
				io.WriteString(c, "from b")
				c.Close()
			}
		}()
		c, err := a.Dial(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(c); string(got) != "from b" {
			t.Errorf("read %q from %s", got, addr)
		}
	}

	if _, err := a.Dial(ctx, "tcp", "203.0.113.1:80"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("dialing out gave %v, want network unreachable", err)
	}
	if out, err := a.Command(ctx, "ip", "-br", "link").Output(); err != nil || strings.Count(string(out), "\n") != 2 {
		t.Errorf("links in a: %v\n%s", err, out)
	}
}
