package forward

import (
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// TestIdleFlowsTakeNoBuffers: a flow beside a thousand idle ones has the share of a flow alone.
func TestIdleFlowsTakeNoBuffers(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxFlows, cfg.MaxFlowsPerPeer = 2000, 2000 })
	c.f.memory.setMemory(400 << 20)
	alone := c.f.memory.share()
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	for range 1000 {
		conn := c.mustDialTCP(targets(port)[0])
		defer conn.Close()
	}
	if share := c.f.memory.share(); share != alone || alone != maxBuffer {
		t.Errorf("the share is %d bytes, alone %d, want %d", share, alone, maxBuffer)
	}
}

// TestReserve: connections into the tailnet get half of the budget at most, take it from the flows, and find a part of
// it even if flows have filled it.
func TestReserve(t *testing.T) {
	const unit, total = 32 << 10, 64 << 20
	var b bufferBudget
	b.setMemory(4 * total)
	count := func() (n int64) {
		for b.reserve(unit) {
			n++
		}
		return n
	}
	alone := b.share()
	if n := count(); n != total/2/unit {
		t.Errorf("%d reservations of %d bytes, want half of the budget", n, unit)
	}
	if share := b.share(); share >= alone || b.shareOf(b.dialed.Load()) != minBuffer {
		t.Errorf("a flow's share is %d bytes, as before, or one more of a dialed connection is above %d", share, minBuffer)
	}
	b.release(total / 2)
	if b.used.Load() != 0 || b.dialed.Load() != 0 {
		t.Errorf("%d and %d bytes are left", b.used.Load(), b.dialed.Load())
	}
	b.used.Store(total) // by flows
	if n := count(); n != total/sparePart/unit {
		t.Errorf("%d reservations of %d bytes in a full budget, want an eighth of it", n, unit)
	}
}

// TestStalledFlowsAreBounded: clients that read nothing, and targets that read nothing, fill
// the budget and little more; a flow between two that do read still moves bytes. When the
// stalled flows end, the budget is free.
func TestStalledFlowsAreBounded(t *testing.T) {
	const budget, stalled = 8 << 20, 100
	c := newClient(t, func(cfg *Config) { cfg.MaxFlows, cfg.MaxFlowsPerPeer = 2000, 2000 })
	c.f.memory.setMemory(4 * budget)
	quit := make(chan struct{})
	flood := serveTCP(t, func(conn *net.TCPConn) {
		go io.Copy(io.Discard, conn)
		io.Copy(conn, neverEnding{})
		conn.Close()
	})
	deaf := serveTCP(t, func(conn *net.TCPConn) { <-quit; conn.Close() })
	var conns []*gonet.TCPConn
	for range stalled {
		conns = append(conns, c.mustDialTCP(targets(flood)[0]))
		up := c.mustDialTCP(targets(deaf)[0])
		go io.Copy(up, neverEnding{})
		conns = append(conns, up)
	}
	// Sizes settle once every flow is blocked.
	settled := func() bool {
		before := c.f.memory.used.Load()
		time.Sleep(200 * time.Millisecond)
		return c.f.memory.used.Load() == before
	}
	waitFor(t, "the flows to stall", settled)
	used := c.f.memory.used.Load()
	// Flows that fill their buffers at the same time may exceed the budget together.
	// Each also fills the least that the kernel takes.
	const leastInKernel = 64 << 10
	if limit := int64(2*budget + 2*stalled*(minBuffer+leastInKernel)); used > limit || used < budget/2 {
		t.Errorf("%d bytes are buffered, want at most %d and at least %d", used, limit, budget/2)
	}
	t.Logf("%d KiB in the buffers of %d flows", used>>10, 2*stalled)
	echo := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	mustEcho(t, c.mustDialTCP(targets(echo)[0]))
	close(quit)
	for _, conn := range conns {
		conn.Close()
	}
	waitFor(t, "the budget to be free", func() bool { return c.f.memory.used.Load() == 0 })
}

// neverEnding is a source of zeros.
type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

// TestReserveFront: the fronts of served ports have a quarter of the budget at most, while it has room, and take nothing from
// connections into the tailnet.
func TestReserveFront(t *testing.T) {
	var b bufferBudget
	b.total.Store(800)
	if !b.reserveFront(200) || b.reserveFront(1) {
		t.Error("the fronts have not exactly a quarter")
	}
	if !b.reserve(400) || b.reserve(1) {
		t.Error("connections into the tailnet have not exactly their half beside the fronts")
	}
	b.release(400)
	b.releaseFront(200)
	b.used.Add(800) // by flows
	if b.reserveFront(1) {
		t.Error("a front takes more than the budget")
	}
	if !b.reserve(100) {
		t.Error("connections into the tailnet have lost their spare part")
	}
	b.release(100)
	if b.used.Load() != 800 || b.dialed.Load() != 0 || b.fronts.Load() != 0 {
		t.Errorf("left: %d used, %d dialed, %d of fronts", b.used.Load(), b.dialed.Load(), b.fronts.Load())
	}
}
