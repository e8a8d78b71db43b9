package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/ops"
)

// bulkMemory bounds the router's peak in a bulk transfer, in bytes. The smallest task of Fargate
// has 512 MiB. With two processors to themselves, the transfers below peak at 63 to 88 MiB. Next to
// three busy loops they peak at up to 330 MiB: the router is starved, and packets queue up in
// WireGuard at 64 KiB each (0425129 and its successors, 2026-11-26).
const bulkMemory = 320 << 20

// TestMemoryIsBounded moves bytes at full speed over 8 connections in each direction.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.startClient()
	// A router that uses too much memory does so in each attempt.
	const attempts = 3
	for attempt := 1; ; attempt++ {
		r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_HOSTNAME": fmt.Sprint("edge-router-", attempt)}})
		r.awaitReady()
		c.awaitRoute("10.0.0.0/16")
		peak := w.bulk(c, r)
		r.stop()
		if peak <= bulkMemory {
			return
		}
		if attempt == attempts {
			t.Fatalf("the router used %d MiB, want at most %d in one of %d attempts", peak>>20, bulkMemory>>20, attempts)
		}
	}
}

// bulk moves many bytes in each direction, and returns the router's peak memory.
func (w *world) bulk(c *client, r *router) (peak int) {
	t := w.t
	t.Helper()
	idle := r.peakMemory()
	for _, tc := range []struct{ name, script string }{
		{"down", "curl -sSf --max-time 50 'http://" + dbHost + "/?bytes=%d' | wc -c"},
		{"up", "head -c %d /dev/zero | curl -sSf --max-time 50 --data-binary @- -o /dev/null -w '%%{size_upload}\n' http://" + dbHost + "/?bytes=0"},
	} {
		const streams, size = 8, 60_000_000
		start := time.Now()
		var all sync.WaitGroup
		for range streams {
			all.Go(func() {
				if out, code := c.sh("sh", "-c", fmt.Sprintf(tc.script, size)); code != 0 || out != fmt.Sprintf("%d\n", size) {
					t.Errorf("%s: exit %d: %s", tc.name, code, out)
				}
			})
		}
		all.Wait()
		peak = r.peakMemory()
		t.Logf("%s: %d x %d MB in %v, peak %d MiB (idle %d MiB)", tc.name, streams, size/1_000_000, time.Since(start).Round(time.Millisecond), peak>>20, idle>>20)
	}
	return peak
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakMemory returns the peak of the router's resident memory, in bytes.
func (r *router) peakMemory() int {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	m := highWater.FindSubmatch(text)
	if m == nil {
		r.t.Fatalf("no VmHWM in\n%s", text)
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb << 10
}

// stalledMemory bounds the router's memory, in bytes, while one node has as many connections as it
// may have in a task of 512 MiB and reads nothing: 60 % of the task.
const stalledMemory = 512 << 20 * 6 / 10

// TestClientThatNeverReads opens as many connections as one node may have to a target that sends
// 1 MiB on each, and reads nothing. Another node's transfers are not affected.
func TestClientThatNeverReads(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{})
	c := w.startClient()
	other := *w
	other.client = w.net.Host("other")
	w.internet.Plug(other.client, "eth0", "192.168.77.21/24")
	neighbor := other.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	neighbor.awaitRoute("10.0.0.0/16")
	ln := must(w.vpc.Listen("tcp", net.JoinHostPort(dbHost, "9")))
	defer ln.Close()
	go func() {
		data := make([]byte, 1<<20)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				conn.Write(data)
				io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	}()
	var s ops.Status
	_, body := r.get("/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	// The client's kernel takes what its window allows: as little as it can.
	c.sh("sysctl", "-w", "net.ipv4.tcp_rmem=4096 4096 4096")
	limit := s.Flows.LimitPerPeer
	for i := range limit {
		conn, err := w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, "9"))
		if err != nil {
			t.Fatalf("connection %d of %d: %v", i+1, limit, err)
		}
		defer conn.Close()
	}
	const size = 60_000_000
	for range 3 {
		start := time.Now()
		if out, code := neighbor.sh("sh", "-c", fmt.Sprintf("curl -sSf --max-time 50 'http://"+dbHost+"/?bytes=%d' | wc -c", size)); code != 0 || out != fmt.Sprintf("%d\n", size) {
			t.Errorf("another node's download: exit %d: %s", code, out)
		}
		t.Logf("another node downloads %d MB in %v", size/1_000_000, time.Since(start).Round(time.Millisecond))
	}
	out, err := r.host.Command(t.Context(), "ss", "-Htmn", "dst", dbHost).Output()
	if err != nil {
		t.Fatal(err)
	}
	kernel := 0
	for _, m := range socketMemory.FindAllSubmatch(out, -1) {
		for _, n := range m[1:] {
			v, _ := strconv.Atoi(string(n))
			kernel += v
		}
	}
	peak := r.peakMemory()
	t.Logf("%d connections: peak %d MiB in the process, %d MiB in its sockets", limit, peak>>20, kernel>>20)
	if peak+kernel > stalledMemory {
		t.Errorf("the router uses %d MiB, want at most %d", (peak+kernel)>>20, stalledMemory>>20)
	}
}

// socketMemory matches what ss says of a socket's memory: allocated for receiving and for sending.
var socketMemory = regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t(\d+),`)
