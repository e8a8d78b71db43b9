// Package tlsfront terminates TLS in front of the targets of served ports. Each front is a listener on the
// loopback address, to which the data path leads the flows of one port, so that these have the limits,
// metrics and hand-over of all flows.
package tlsfront

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/proxyproto"
)

// Config configures a [Server].
type Config struct {
	// Certificate returns the certificate of now. Each handshake calls it, so it must not block.
	Certificate func() (*tls.Certificate, error)
	// Headers is true if each connection begins with a header of the PROXY protocol, which the data path
	// has written and which is not a part of the TLS.
	Headers bool
	// WantsHeader reports whether a target gets the header. It is called only with Headers.
	WantsHeader func(target netip.AddrPort) bool
	// Conns bounds the connections of all fronts. Each has two sockets.
	Conns int
	// Memory gives the memory of buffers, [ConnMemory] for each connection.
	Memory Memory
	// Failed is called with the reason of each connection that did not reach its target.
	Failed func(Reason, error)
}

// Memory is a budget of memory in bytes. Its methods may be called concurrently, and do not block.
type Memory interface {
	// Reserve takes n bytes, or returns false if there is no room for them.
	Reserve(n int64) bool
	// Release returns n bytes that Reserve took.
	Release(n int64)
}

// Reason is why a connection did not reach its target.
type Reason string

const (
	LimitReached Reason = "limit"       // Config.Conns, or Config.Memory
	Certificate  Reason = "certificate" // there is none yet
	Handshake    Reason = "handshake"   // the client sent something else, or nothing
	Target       Reason = "target"      // the target refused the connection, or did not answer
)

// Reasons lists all.
var Reasons = []Reason{LimitReached, Certificate, Handshake, Target}

const (
	handshakeTimeout = 10 * time.Second
	dialTimeout      = 10 * time.Second
	acceptPause      = 50 * time.Millisecond // after an error
	// bufferSize is the size of the buffer of each direction: a record of TLS.
	bufferSize = 16 << 10
	// ConnMemory is the memory of a connection in bytes: two buffers, two records that TLS decrypts and encrypts, and
	// some 16 KB of state.
	ConnMemory = 5 * bufferSize
)

// Server is the fronts of a process.
type Server struct {
	cfg    Config
	tls    *tls.Config
	places chan struct{} // has an element for each open connection
	fronts []*front
	wg     sync.WaitGroup // connections
}

type front struct {
	ln   net.Listener
	dial func(context.Context) (net.Conn, error)
}

// New returns a server without fronts.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, places: make(chan struct{}, cfg.Conns)}
	s.tls = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cfg.Certificate() },
	}
	return s
}

// Open adds a front, whose address it returns. dial connects to the target. It must not be called after [Server.Serve].
func (s *Server) Open(dial func(context.Context) (net.Conn, error)) (net.Addr, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.fronts = append(s.fronts, &front{ln, dial})
	return ln.Addr(), nil
}

// Connections returns the number of open connections.
func (s *Server) Connections() int { return len(s.places) }

// Serve serves the fronts until ctx ends, and then closes their connections.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, len(s.fronts))
	for _, f := range s.fronts {
		stop := context.AfterFunc(ctx, func() { f.ln.Close() })
		defer stop()
		s.wg.Go(func() { failed <- s.accept(ctx, f) })
	}
	var err error
	for range s.fronts {
		err = errors.Join(err, <-failed)
	}
	s.wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept serves one front until its listener is closed.
func (s *Server) accept(ctx context.Context, f *front) error {
	for {
		c, err := f.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // too many open files, say
			backoff.Sleep(ctx, acceptPause)
			continue
		}
		conn := c.(*net.TCPConn)
		if !s.enter() {
			reset(conn)
			s.cfg.Failed(LimitReached, errors.New("too many connections, or no memory for their buffers"))
			continue
		}
		s.wg.Go(func() {
			defer s.leave()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			if reason, err := s.connect(ctx, f, conn); err != nil && ctx.Err() == nil {
				s.cfg.Failed(reason, err)
			}
		})
	}
}

// enter takes what a connection needs, until leave returns it.
func (s *Server) enter() bool {
	select {
	case s.places <- struct{}{}:
	default:
		return false
	}
	if s.cfg.Memory.Reserve(ConnMemory) {
		return true
	}
	<-s.places
	return false
}

func (s *Server) leave() {
	s.cfg.Memory.Release(ConnMemory)
	<-s.places
}

// connect shakes hands with the client before it connects to the target, so that strangers to TLS cost the target nothing,
// and relays until both directions have ended.
func (s *Server) connect(ctx context.Context, f *front, conn *net.TCPConn) (Reason, error) {
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	in := bufio.NewReader(conn)
	var header []byte
	if s.cfg.Headers {
		var err error
		if header, err = proxyproto.Read(in); err != nil {
			return Handshake, err
		}
	}
	client := tls.Server(buffered{conn, in}, s.tls)
	if err := client.HandshakeContext(ctx); err != nil {
		if _, missing := s.cfg.Certificate(); missing != nil {
			return Certificate, missing
		}
		return Handshake, err
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	c, err := f.dial(dialing)
	cancel()
	if err != nil {
		reset(conn)
		return Target, err
	}
	target := c.(*net.TCPConn)
	defer target.Close()
	if to := target.RemoteAddr().(*net.TCPAddr).AddrPort(); header != nil && s.cfg.WantsHeader(netip.AddrPortFrom(to.Addr().Unmap(), to.Port())) {
		if _, err := target.Write(header); err != nil {
			reset(conn)
			return Target, err
		}
	}
	conn.SetDeadline(time.Time{})
	relay(ctx, client, conn, target)
	return "", nil
}

// buffered reads a connection through a buffer.
type buffered struct {
	*net.TCPConn
	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// relay moves bytes in both directions until both have ended. An end of one is passed on, and an error resets both.
func relay(ctx context.Context, client *tls.Conn, conn, target *net.TCPConn) {
	defer context.AfterFunc(ctx, func() { target.Close() })()
	failed := make(chan bool, 2)
	copyTo := func(dst io.Writer, src io.Reader, end func() error) {
		_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, bufferSize))
		if err == nil {
			err = end()
		}
		failed <- err != nil
	}
	go copyTo(target, client, target.CloseWrite)
	go copyTo(client, target, func() error { return errors.Join(client.CloseWrite(), conn.CloseWrite()) })
	for range 2 {
		if <-failed { // which wakes the other direction
			reset(conn)
			reset(target)
		}
	}
}

// reset closes a connection with a reset, so that the other end knows that it did not end as it should.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
