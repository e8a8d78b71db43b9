package duplex

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/duplextest"
	"subnetrouter/internal/testwait"
)

// tcp is a [Conn] that counts the bytes which Read and Write pass.
type tcp struct {
	*net.TCPConn
	read, written int
}

func (c *tcp) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read += n
	return n, err
}

func (c *tcp) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.written += n
	return n, err
}

func (c *tcp) Reset() {
	c.SetLinger(0)
	c.Close()
}

// pair returns the two ends of a connection.
func pair(t *testing.T) (far *net.TCPConn, near *tcp) {
	t.Helper()
	ln := duplextest.Listen(t)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); accepted.Close() })
	c.SetDeadline(time.Now().Add(testwait.Limit()))
	return c.(*net.TCPConn), &tcp{TCPConn: accepted}
}

// run copies between two connections. It returns their far ends, and waits for the end of Copy.
func run(t *testing.T) (farA, farB *net.TCPConn, a, b *tcp, wait func()) {
	t.Helper()
	farA, a = pair(t)
	farB, b = pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		Copy(a, b)
	}()
	return farA, farB, a, b, func() {
		t.Helper()
		select {
		case <-done:
		case <-time.After(testwait.Limit()):
			t.Fatal("Copy has not returned")
		}
	}
}

// TestHalfClose: an end of one stream leaves the other open, and each end arrives. All bytes pass by Read and Write.
func TestHalfClose(t *testing.T) {
	farA, farB, a, b, wait := run(t)
	question, answer := strings.Repeat("question", 50_000), strings.Repeat("answer", 50_000)
	go func() {
		io.WriteString(farA, question)
		farA.CloseWrite()
	}()
	if got, err := io.ReadAll(farB); err != nil || string(got) != question {
		t.Fatalf("%d bytes and %v, want %d and an end", len(got), err, len(question))
	}
	go func() {
		io.WriteString(farB, answer)
		farB.CloseWrite()
	}()
	if got, err := io.ReadAll(farA); err != nil || string(got) != answer {
		t.Fatalf("%d bytes and %v, want %d and an end", len(got), err, len(answer))
	}
	wait()
	if a.read != len(question) || b.written != len(question) || b.read != len(answer) || a.written != len(answer) {
		t.Errorf("Read and Write passed %d, %d, %d and %d bytes", a.read, b.written, b.read, a.written)
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Errorf("Copy has closed a connection that ended as it should: %v", err)
	}
}

// TestReset: a reset of one side resets the other, whose reader is idle, and is no end of a stream.
func TestReset(t *testing.T) {
	farA, farB, _, _, wait := run(t)
	io.WriteString(farA, "part")
	got := make([]byte, 4)
	if _, err := io.ReadFull(farB, got); err != nil || !bytes.Equal(got, []byte("part")) {
		t.Fatalf("%q, %v", got, err)
	}
	farA.SetLinger(0)
	farA.Close()
	if _, err := farB.Read(got); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side got %v, want a reset", err)
	}
	wait()
}
