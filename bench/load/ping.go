package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// Ping sends echo requests, one per interval (Every) or all at once, and waits for the
// answers. It needs a raw socket.
type Ping struct {
	Address string // IPv4
	Count   int
	Every   time.Duration
	Each    time.Duration // an answer that takes longer is lost
}

// Run implements [Generator].
func (p Ping) Run(context.Context) (Result, error) {
	addr, err := netip.ParseAddr(p.Address)
	if err != nil {
		return Result{}, fmt.Errorf("pinging: %w", err)
	}
	c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return Result{}, fmt.Errorf("pinging: %w", err)
	}
	defer c.Close()
	id := int(time.Now().UnixNano() & 0xffff)
	start := time.Now()
	took := make(chan []time.Duration, 1)
	end := start.Add(time.Duration(p.Count)*p.Every + p.Each)
	c.SetReadDeadline(end)
	go func() { took <- answers(c, id, p.Count, start) }()
	for i := range p.Count {
		data := make([]byte, 56)
		binary.BigEndian.PutUint64(data, uint64(time.Since(start)))
		b, err := (&icmp.Message{
			Type: ipv4.ICMPTypeEcho,
			Body: &icmp.Echo{ID: id, Seq: i, Data: data},
		}).Marshal(nil)
		if err != nil {
			return Result{}, fmt.Errorf("pinging: %w", err)
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return Result{}, fmt.Errorf("pinging: %w", err)
		}
		time.Sleep(p.Every)
	}
	n := notes{took: <-took}
	r := n.result(start)
	r.Failed = p.Count - r.Done
	if r.Failed > 0 {
		r.Why = fmt.Sprintf("no answer in %v", p.Each)
	}
	return r, nil
}

// answers reads until all answers have arrived or the deadline expires. A request
// carries the time of sending, in nanoseconds since start.
func answers(c *icmp.PacketConn, id, count int, start time.Time) (took []time.Duration) {
	buf := make([]byte, 1500)
	seen := make([]bool, count)
	for len(took) < count {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return took
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		e, ok := m.Body.(*icmp.Echo)
		if !ok || e.ID != id || e.Seq >= count || seen[e.Seq] || len(e.Data) < 8 {
			continue
		}
		seen[e.Seq] = true
		took = append(took, time.Since(start)-time.Duration(binary.BigEndian.Uint64(e.Data)))
	}
	return took
}
