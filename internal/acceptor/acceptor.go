// Package acceptor gives a server connections that another part of the program has accepted.
package acceptor

import (
	"net"
	"sync"
)

// Acceptor is a [net.Listener] without a socket.
type Acceptor struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// New returns an open Acceptor.
func New() *Acceptor {
	return &Acceptor{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Conns takes the connections. A send blocks until the server accepts the connection, and for ever after Close, so
// select between it and Done.
func (a *Acceptor) Conns() chan<- net.Conn { return a.conns }

// Done is closed by Close.
func (a *Acceptor) Done() <-chan struct{} { return a.done }

// Accept implements [net.Listener].
func (a *Acceptor) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. It may be called more than once.
func (a *Acceptor) Close() error {
	a.once.Do(func() { close(a.done) })
	return nil
}

// Addr implements [net.Listener]. No server needs the address.
func (a *Acceptor) Addr() net.Addr { return &net.TCPAddr{} }
