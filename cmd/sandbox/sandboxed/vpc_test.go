package sandboxed

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

func TestResolve(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sent := VPC{
		CIDRs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Services: map[string]string{"tcp/10.0.3.4:80": ln.Addr().String()},
	}
	value, ok := strings.CutPrefix(sent.Env(), "SANDBOX_VPC=")
	if !ok {
		t.Fatalf("environment %q: want SANDBOX_VPC", sent.Env())
	}
	var vpc VPC // as the router reads it
	if err := json.Unmarshal([]byte(value), &vpc); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		network, address string
		want             error
	}{
		{"tcp", "10.0.3.4:80", nil},
		{"udp", "10.0.3.4:80", syscall.ECONNREFUSED},
		{"tcp", "10.0.3.4:81", syscall.ECONNREFUSED},
		{"tcp", "10.1.3.4:80", syscall.EHOSTUNREACH},
		{"tcp", "127.0.0.1:80", syscall.EHOSTUNREACH},
	} {
		got, err := vpc.Resolve(tt.network, netip.MustParseAddrPort(tt.address))
		if !errors.Is(err, tt.want) {
			t.Errorf("resolving %s %s: %v, want %v", tt.network, tt.address, err, tt.want)
		}
		if err == nil && got.String() != ln.Addr().String() {
			t.Errorf("resolving %s %s gives %s, want %s", tt.network, tt.address, got, ln.Addr())
		}
	}
}
