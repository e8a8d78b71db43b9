package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"subnetrouter/bench/target"
)

// Fetch transfers files of a size one after the other, each over a new connection. The
// durations of the result begin with the first packet of the connection and end when the
// receiver has the whole file and the client knows.
type Fetch struct {
	Address string // a [target.FilePort], or with Up a [target.SinkPort]
	Up      bool
	Size    int64 // bytes
	Count   int
	Pause   time.Duration // after each file
	Each    time.Duration // a transfer that takes longer has failed
}

// Run implements [Generator].
func (f Fetch) Run(ctx context.Context) (Result, error) {
	var n notes
	start := time.Now()
	for range f.Count {
		began := time.Now()
		err := f.one(ctx)
		n.add(time.Since(began), err)
		time.Sleep(f.Pause)
	}
	r := n.result(start)
	r.Bytes = f.Size * int64(r.Done)
	return r, nil
}

func (f Fetch) one(ctx context.Context) error {
	c, err := dial(ctx, f.Address, f.Each)
	if err != nil {
		return err
	}
	defer c.Close()
	if !f.Up {
		if err := target.AskFile(c, f.Size); err != nil {
			return err
		}
		n, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{c}, make([]byte, target.Chunk))
		return f.check(n, err)
	}
	buf := make([]byte, target.Chunk)
	for left := f.Size; left > 0; {
		n, err := c.Write(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return errors.New("sending a file: not a TCP connection")
	}
	if err := tcp.CloseWrite(); err != nil {
		return err
	}
	var arrived int64
	err = decodeCount(c, &arrived)
	return f.check(arrived, err)
}

// check returns the error of a transfer of n bytes.
func (f Fetch) check(n int64, err error) error {
	if err == nil && n != f.Size {
		return fmt.Errorf("%d of %d bytes arrived", n, f.Size)
	}
	return err
}

// These hide WriterTo and ReaderFrom, with which io.CopyBuffer would not use the buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
