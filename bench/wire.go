package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"subnetrouter/internal/netnstest"
)

// neighborIP is the address of a host of the internet that is not behind the router.
const neighborIP = "192.168.77.4"

// Buffers of TCP sockets: least, first and largest size in bytes. They are Linux's own on
// machines with several GiB, and set because distributions and cloud images change them.
const (
	tcpRmem = "4096 131072 6291456"
	tcpWmem = "4096 16384 4194304"
)

// sysctlFile returns the file of a kernel parameter of the initial namespace.
func sysctlFile(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// prepareMachine sets the kernel parameters that no namespace has of its own, and makes s
// restore net.core.rmem_max. It allows cubic and bbr in all namespaces for good: that has
// no effect on programs that do not ask for them.
func prepareMachine(s *scope, o options, logf func(string, ...any)) error {
	const allowed = "net.ipv4.tcp_allowed_congestion_control"
	names := strings.Fields(fileText(sysctlFile(allowed)))
	known := strings.Fields(fileText(sysctlFile("net.ipv4.tcp_available_congestion_control")))
	for _, name := range []string{"cubic", "bbr"} {
		if !slices.Contains(known, name) {
			// Many kernels have it as a module. Without it, the subjects that use it fail.
			if out, err := exec.Command("modprobe", "tcp_"+name).CombinedOutput(); err != nil {
				logf("loading %s: %v: %s", name, err, out)
				continue
			}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
			if err := os.WriteFile(sysctlFile(allowed), []byte(strings.Join(names, " ")), 0); err != nil {
				return fmt.Errorf("allowing %s: %w", name, err)
			}
		}
	}
	if o.rmemMax == 0 {
		return nil
	}
	const largest = "net.core.rmem_max"
	before := fileText(sysctlFile(largest))
	if before == strconv.Itoa(o.rmemMax) {
		return nil
	}
	if err := os.WriteFile(sysctlFile(largest), []byte(strconv.Itoa(o.rmemMax)), 0); err != nil {
		logf("%s stays %s: %v", largest, before, err) // the table has the value in force
		return nil
	}
	s.Cleanup(func() {
		if err := os.WriteFile(sysctlFile(largest), []byte(before), 0); err != nil {
			logf("restoring %s to %s: %v", largest, before, err)
		}
	})
	return nil
}

// buildWire connects the client over a wire, and adds the neighbor. The wire passes every
// packet on at once except during a measurement.
func (w *world) buildWire() {
	w.wire = w.internet.PlugOver(w.client, "eth0", netnstest.WireOptions{}, clientIP+"/24")
	w.neighbor = w.net.Host("neighbor")
	w.internet.Plug(w.neighbor, "eth0", neighborIP+"/24")
}

// setBuffers gives a host ordinary TCP settings, and cubic.
func setBuffers(h *netnstest.Host) {
	h.Sysctl("net.ipv4.tcp_rmem", tcpRmem)
	h.Sysctl("net.ipv4.tcp_wmem", tcpWmem)
	// Otherwise a connection starts with the window that an earlier one had at its end.
	h.Sysctl("net.ipv4.tcp_no_metrics_save", "1")
	h.Sysctl("net.ipv4.tcp_congestion_control", "cubic")
}

// useCongestionControl prepares the router's host, and chooses the congestion control of
// client and servers for connections that are opened from now on.
func (w *world) useCongestionControl(r *running) {
	setBuffers(r.host)
	name := "cubic"
	if r.bbr {
		name = "bbr"
	}
	for _, h := range []*netnstest.Host{w.client, w.vpc} {
		h.Sysctl("net.ipv4.tcp_congestion_control", name)
	}
}

// wireFacts returns lines for the report about the wire.
func (w *world) wireFacts(o options) []string {
	s := w.wire.Stats()
	facts := []string{
		fmt.Sprintf("The wire is between the client and the internet: %g Mbit/s of Ethernet frames in each direction, a drop-tail queue of %v, half of the round-trip time each way, loss in both directions; round n has seed n for every subject", o.rate, wireQueue),
		fmt.Sprintf("The wire carried %s frames, and missed %s for want of processor time and %s for want of room", count(int(s.FromHost.Frames+s.ToHost.Frames)), count(int(s.Missed)), count(int(s.FromHost.Full+s.ToHost.Full))),
		"Client, servers and router: net.ipv4.tcp_rmem " + tcpRmem + ", tcp_wmem " + tcpWmem + ", tcp_no_metrics_save 1, congestion control cubic (plain-bbr: bbr at client and servers)",
		fmt.Sprintf("A stream takes %v", o.scale.stream),
	}
	if o.derp {
		facts = append(facts, "The client has no UDP: its packets go by way of DERP, which is next to the router")
	}
	return facts
}
