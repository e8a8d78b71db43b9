// Package duplextest helps the tests of internal/duplex and of its users: with a listener, an echo server and a
// budget of memory.
package duplextest

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"subnetrouter/internal/testwait"
)

// Listen returns a listener at a free port of the loopback interface, until the test ends.
func Listen(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// Echo starts a server that echoes until the client ends its stream, and then sends "end". It returns the server's address.
func Echo(t *testing.T) string {
	t.Helper()
	ln := Listen(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
				io.WriteString(c, "end")
			}()
		}
	}()
	return ln.Addr().String()
}

// Budget is a duplex.Memory of limited size.
type Budget struct {
	Size int64

	mu   sync.Mutex
	used int64
}

// Reserve implements duplex.Memory.
func (b *Budget) Reserve(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.Size {
		return false
	}
	b.used += n
	return true
}

// Release implements duplex.Memory.
func (b *Budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// Await waits until n bytes are reserved.
func (b *Budget) Await(t *testing.T, n int64) {
	t.Helper()
	testwait.Until(t, "the memory in use", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.used != n {
			return fmt.Errorf("%d bytes are reserved, want %d", b.used, n)
		}
		return nil
	})
}
