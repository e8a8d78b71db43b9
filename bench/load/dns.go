package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"
)

// DNS sends queries: with Rate 0, each worker sends the next one after an answer, over
// one socket or (NewSocket) a new one for every query. With a Rate, queries start at
// that rate, each with a new socket or with the workers' sockets in turn.
type DNS struct {
	Address   string
	Workers   int
	NewSocket bool
	Rate      float64 // queries/s
	For, Each time.Duration
}

// Run implements [Generator].
func (d DNS) Run(ctx context.Context) (Result, error) {
	var n notes
	start := time.Now()
	note := func(c net.Conn, id uint16) {
		began := time.Now()
		err := d.query(ctx, c, id)
		n.add(time.Since(began), err)
	}
	kept := make([]net.Conn, max(1, d.Workers))
	if !d.NewSocket {
		for i := range kept {
			c, err := net.Dial("udp", d.Address)
			if err != nil {
				return Result{}, err
			}
			defer c.Close()
			kept[i] = c
		}
	}
	if d.Rate > 0 {
		d.paced(ctx, start, func(i int) { note(kept[i%len(kept)], uint16(i)) })
		return n.result(start), nil
	}
	workers(ctx, d.Workers, d.For, func(w, i int) { note(kept[w], uint16(i)) })
	return n.result(start), nil
}

func (d DNS) paced(ctx context.Context, start time.Time, one func(i int)) {
	var wg sync.WaitGroup
	for i := 0; ctx.Err() == nil; i++ {
		due := time.Duration(float64(i) / d.Rate * float64(time.Second))
		if due >= d.For {
			break
		}
		time.Sleep(time.Until(start.Add(due)))
		wg.Go(func() { one(i) })
	}
	wg.Wait()
}

// question asks for the A record of db.internal.
var question = []byte("\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x08internal\x00\x00\x01\x00\x01")

func (d DNS) query(ctx context.Context, c net.Conn, id uint16) error {
	if c == nil {
		var dialer net.Dialer
		var err error
		if c, err = dialer.DialContext(ctx, "udp", d.Address); err != nil {
			return err
		}
		defer c.Close()
	}
	c.SetDeadline(time.Now().Add(d.Each))
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, id), question...)); err != nil {
		return err
	}
	var buf [512]byte
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return err
		}
		if n < 12 {
			return fmt.Errorf("the answer has only %d bytes", n)
		}
		if binary.BigEndian.Uint16(buf[:]) == id { // otherwise a late answer
			return nil
		}
	}
}
