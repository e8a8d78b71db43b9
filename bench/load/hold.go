package load

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// Hold opens flows, uses each once and leaves them open until the process exits.
type Hold struct {
	Network   string   // "tcp" or "udp", to an echo server
	Addresses []string // used in turn: a client has 28,000 ports for each
	Count     int
	Rate      float64 // new flows/s at most
	Each      time.Duration
}

// held references the flows, so that the garbage collector does not close them.
var held struct {
	sync.Mutex
	conns []net.Conn
}

// Run implements [Generator].
func (h Hold) Run(ctx context.Context) (Result, error) {
	const atOnce = 200
	var n notes
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	start := time.Now()
	for i := range h.Count {
		if n.failures() > h.Count/100 {
			break // the caller accepts at most 1 %
		}
		due := start.Add(time.Duration(float64(i) / h.Rate * float64(time.Second)))
		time.Sleep(time.Until(due))
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			err := h.open(ctx, h.Addresses[i%len(h.Addresses)])
			n.add(time.Since(began), err)
		})
	}
	wg.Wait()
	return n.result(start), nil
}

func (h Hold) open(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: h.Each, KeepAlive: -1}
	c, err := d.DialContext(ctx, h.Network, address)
	if err != nil {
		return err
	}
	held.Lock()
	held.conns = append(held.conns, c)
	held.Unlock()
	if h.Network == "tcp" {
		c.SetDeadline(time.Now().Add(h.Each))
		return pingPong(c)
	}
	// A flow is not lost because a datagram is.
	for range 3 {
		c.SetDeadline(time.Now().Add(h.Each / 3))
		if err = pingPong(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return err
}
