// Package duplextest helps the tests of internal/duplex and of its users: with a listener, an echo server, a budget
// of memory and a certificate.
package duplextest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

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

// Used returns the number of bytes that are reserved.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Await waits until n bytes are reserved.
func (b *Budget) Await(t *testing.T, n int64) {
	t.Helper()
	testwait.Until(t, "the memory in use", func() error {
		if used := b.Used(); used != n {
			return fmt.Errorf("%d bytes are reserved, want %d", used, n)
		}
		return nil
	})
}

// Certificate returns a certificate of edge.test, which it has signed itself.
func Certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"edge.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
