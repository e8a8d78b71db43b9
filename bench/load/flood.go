package load

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"subnetrouter/bench/target"
)

// Flood sends datagrams towards the VPC; Done is their number. The target's tally has
// the number of arrived ones.
type Flood struct {
	Address string
	target.Ask
}

// Run implements [Generator].
func (f Flood) Run(context.Context) (Result, error) {
	c, err := net.Dial("udp", f.Address)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	target.Deepen(c.(*net.UDPConn))
	var n notes
	start := time.Now()
	target.Pace(f.Rate, f.For, func(seq uint64, b []byte) {
		target.Put(b, f.Flood, seq)
		if _, err := c.Write(b); err != nil {
			n.add(0, err)
		} else {
			n.took = append(n.took, 0)
		}
	}, make([]byte, f.Size))
	return n.result(start), nil
}

// Receive requests a flood from the VPC; Done is the number of datagrams received. The
// target's tally has the number of sent ones.
type Receive struct {
	Address string
	target.Ask
}

// Run implements [Generator].
func (r Receive) Run(context.Context) (Result, error) {
	const asking, lingering = 5 * time.Second, 500 * time.Millisecond
	c, err := net.Dial("udp", r.Address)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	target.Deepen(c.(*net.UDPConn))
	buf := make([]byte, 65535)
	var seen target.Seen
	for giveUp := time.Now().Add(asking); seen.Count == 0; {
		if time.Now().After(giveUp) {
			return Result{}, errors.New("requesting a flood: no datagram arrived")
		}
		if _, err := c.Write(r.Datagram()); err != nil {
			return Result{}, err
		}
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := c.Read(buf); err == nil && n >= target.HeaderLen {
			seen.Add(binary.BigEndian.Uint64(buf[9:]))
		}
	}
	start := time.Now()
	c.SetReadDeadline(start.Add(r.For + lingering))
	last := start
	for {
		n, err := c.Read(buf)
		if err != nil {
			return Result{Done: seen.Count, Bytes: int64(seen.Count * r.Size), Elapsed: last.Sub(start)}, nil
		}
		if n >= target.HeaderLen {
			seen.Add(binary.BigEndian.Uint64(buf[9:]))
		}
		last = time.Now()
	}
}
