package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/bench/target"
)

// FirstByte connects to an echo server repeatedly until it receives one byte; the
// result's At is that time.
type FirstByte struct {
	Address string
	Proxy   Proxy // on the way; zero: none
	Every   time.Duration
	Patience
}

// Patience bounds the duration of an attempt and of all attempts together.
type Patience struct {
	Each  time.Duration
	Total time.Duration
}

// Run implements [Generator].
func (f FirstByte) Run(ctx context.Context) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Total)
	defer cancel()
	start, first := time.Now(), make(chan time.Time, 1)
	var last atomic.Value
	tick := time.NewTicker(f.Every)
	defer tick.Stop()
	for {
		go func() {
			if err := ask(ctx, f.Proxy, f.Address, f.Each); err != nil {
				last.Store(err.Error())
				return
			}
			select {
			case first <- time.Now():
			default:
			}
		}()
		select {
		case at := <-first:
			return Result{Done: 1, Elapsed: at.Sub(start), At: at}, nil
		case <-ctx.Done():
			return Result{}, fmt.Errorf("no byte in %v; the last attempt: %v", f.Total, last.Load())
		case <-tick.C:
		}
	}
}

// ask opens a connection, has one byte echoed and closes first.
func ask(ctx context.Context, p Proxy, address string, patience time.Duration) error {
	c, err := p.dial(ctx, address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	return pingPong(c)
}

func dial(ctx context.Context, address string, patience time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: patience, KeepAlive: -1}
	deadline := time.Now().Add(patience)
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		c.SetDeadline(deadline)
	}
	return c, err
}

func pingPong(c net.Conn) error {
	b := []byte{42}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// await opens a connection and reads one byte and EOF: the server closes first.
func await(ctx context.Context, p Proxy, address string, patience time.Duration) error {
	c, err := p.dial(ctx, address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err == nil && len(got) != 1 {
		err = errors.New("the connection ended without its byte")
	}
	return err
}

// Stream moves bytes over concurrent connections, up to a sink or down from a source.
// Bytes counts those that the receiver has.
type Stream struct {
	Address string
	Proxy   Proxy // on the way; zero: none
	Streams int
	Down    bool
	For     time.Duration
	Skip    time.Duration // the beginning of For, which does not count; for Down only
}

// draining bounds the time after the end of a stream until all bytes have arrived.
const draining = time.Minute

// Run implements [Generator].
func (s Stream) Run(ctx context.Context) (Result, error) {
	const connecting = 10 * time.Second
	conns := make([]net.Conn, s.Streams)
	for i := range conns {
		c, err := s.Proxy.dial(ctx, s.Address, connecting)
		if err != nil {
			return Result{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	start := time.Now()
	end := start.Add(s.For)
	var wg sync.WaitGroup
	each := make([]int64, len(conns))
	var n notes
	for i, c := range conns {
		c.SetDeadline(end.Add(draining))
		wg.Go(func() {
			var err error
			if s.Down {
				each[i], err = down(c, start.Add(s.Skip), end)
			} else {
				each[i], err = up(c, end)
			}
			n.add(0, err)
		})
	}
	wg.Wait()
	r := n.result(start.Add(s.Skip))
	r.Bytes, r.Fairness = sum(each)
	return r, nil
}

// sum returns the sum of bytes, and Jain's index.
func sum(bytes []int64) (total int64, fairness float64) {
	squares := 0.0
	for _, b := range bytes {
		total += b
		squares += float64(b) * float64(b)
	}
	if squares > 0 {
		fairness = float64(total) * float64(total) / (float64(len(bytes)) * squares)
	}
	return total, fairness
}

func up(c net.Conn, end time.Time) (bytes int64, err error) {
	buf := make([]byte, target.Chunk)
	c.SetWriteDeadline(end)
	for err == nil {
		_, err = c.Write(buf)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	c.SetWriteDeadline(end.Add(draining))
	if _, err := c.Write([]byte{target.Last}); err != nil {
		return 0, err
	}
	err = decodeCount(c, &bytes)
	return bytes, err
}

func decodeCount(c net.Conn, bytes *int64) error {
	if err := json.NewDecoder(c).Decode(bytes); err != nil {
		return fmt.Errorf("reading the sink's count: %w", err)
	}
	return nil
}

// down returns the bytes that arrive between from and end.
func down(c net.Conn, from, end time.Time) (bytes int64, err error) {
	buf := make([]byte, target.Chunk)
	// A stalled stream contributes its bytes so far, over the same time as the others.
	c.SetReadDeadline(end)
	for {
		n, err := c.Read(buf)
		if !time.Now().Before(from) {
			bytes += int64(n)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return bytes, nil
		}
		if err != nil {
			return bytes, err
		}
	}
}

// Connect opens connections to all addresses in turn. Each worker opens the next when
// the last is closed, by the client or (ServerCloses) by the server.
type Connect struct {
	Addresses    []string
	Proxy        Proxy // on the way; zero: none
	ServerCloses bool
	Workers      int
	For, Each    time.Duration
}

// Run implements [Generator].
func (c Connect) Run(ctx context.Context) (Result, error) {
	one := ask
	if c.ServerCloses {
		one = await
	}
	var n notes
	start := time.Now()
	workers(ctx, c.Workers, c.For, func(w, i int) {
		began := time.Now()
		err := one(ctx, c.Proxy, c.Addresses[(w+i)%len(c.Addresses)], c.Each)
		n.add(time.Since(began), err)
	})
	return n.result(start), nil
}

// Burst opens all connections at once.
type Burst struct {
	Address string
	Count   int
	Each    time.Duration
}

// Run implements [Generator].
func (b Burst) Run(ctx context.Context) (Result, error) {
	var n notes
	var wg sync.WaitGroup
	gun := make(chan struct{})
	for range b.Count {
		wg.Go(func() {
			<-gun
			began := time.Now()
			err := ask(ctx, Proxy{}, b.Address, b.Each)
			n.add(time.Since(began), err)
		})
	}
	start := time.Now()
	close(gun)
	wg.Wait()
	return n.result(start), nil
}
