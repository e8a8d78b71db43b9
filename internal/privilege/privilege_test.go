package privilege

import (
	"bytes"
	"testing"
)

// TestKeep: a process keeps what it needs and was granted, and never what it needs only at its start.
func TestKeep(t *testing.T) {
	docker := OfFile &^ NetAdmin // of a container without options
	for name, c := range map[string]struct {
		need          Need
		granted, want Set
	}{
		"userspace":                                {Need{}, docker, 0},
		"userspace with NET_ADMIN":                 {Need{}, OfFile, 0},
		"kernel":                                   {Need{Kernel: true}, OfFile, NetAdmin},
		"kernel without NET_ADMIN":                 {Need{Kernel: true}, docker, 0},
		"a low port":                               {Need{LowPorts: true}, docker, NetBindService},
		"no ICMP sockets":                          {Need{Ping: true}, docker, NetRaw},
		"all needs":                                {Need{Kernel: true, LowPorts: true, Ping: true}, OfFile, NetAdmin | NetBindService | NetRaw},
		"all needs, nothing granted":               {Need{Kernel: true, LowPorts: true, Ping: true}, 0, 0},
		"all needs, every capability of Linux":     {Need{Kernel: true, LowPorts: true, Ping: true}, 1<<41 - 1, NetAdmin | NetBindService | NetRaw},
		"no need, all capabilities of the kernels": {Need{}, ^Set(0), 0},
	} {
		if got := c.need.keep(c.granted); got != c.want {
			t.Errorf("%s: %v (%#x), want %v", name, got, uint64(got), c.want)
		}
	}
}

// TestAttributeValue: the value is that of `setcap cap_chown,cap_dac_override,cap_net_bind_service,cap_net_admin,cap_net_raw=p`.
// Without the effective flag a container without the capabilities can still run the file.
func TestAttributeValue(t *testing.T) {
	want := []byte{0, 0, 0, 2, 0x03, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if got := OfFile.AttributeValue(); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	if got := (Set(1) << 33).AttributeValue()[12]; got != 2 {
		t.Errorf("capability 33 is %#x in the third word", got)
	}
}

func TestString(t *testing.T) {
	if got := (NetAdmin | NetRaw).String(); got != "CAP_NET_ADMIN and CAP_NET_RAW" {
		t.Error(got)
	}
}
