// Package tlsfront is in front of the targets of served ports with TLS or HTTP: a listener on the loopback address, to
// which the data path leads flows, so that these have the rules, limits, metrics and hand-over of all flows. It terminates TLS, and
// hands connections with HTTP over to another package.
package tlsfront

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/duplex"
)

// Config configures a [Server].
type Config struct {
	// Certificate returns the certificate of now. Each handshake calls it, so it must not block.
	Certificate func() (*tls.Certificate, error)
	// HTTP answers the requests of a connection, and returns when it has ended. It does not block once the connection is closed.
	HTTP func(net.Conn, Flow)
	// Dial connects to the target of a [Flow] of the kind [TLS].
	Dial func(ctx context.Context, target netip.AddrPort) (net.Conn, error)
	// Conns bounds the connections. Each has two sockets. One client has half of them at most.
	Conns int
	// Memory gives the memory of buffers, [ConnMemory] for each connection.
	Memory duplex.Memory
	// Failed is called with the reason of each connection that did not reach its target.
	Failed func(Reason, error)
}

// Reason is why a connection did not reach its target.
type Reason string

const (
	LimitReached Reason = "limit"       // Config.Conns, the client's share of them, or Config.Memory
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
	silence          = 2 * time.Minute       // of a client whose target has ended
	// ConnMemory is the memory of a connection in bytes: two buffers, two records that TLS decrypts and encrypts, and
	// some 16 KB of state.
	ConnMemory = 5 * duplex.BufferSize
)

// Server is the front of a process.
type Server struct {
	cfg Config
	tls [HTTPS + 1]*tls.Config // by [Kind]; nil without TLS
	ln  net.Listener
	wg  sync.WaitGroup // connections

	silence time.Duration // the constant; tests shorten it

	mu      sync.Mutex // covers the fields below
	open    int        // connections
	clients map[netip.Addr]int
}

// New returns a server that listens.
func New(cfg Config) (*Server, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, ln: ln, silence: silence, clients: map[netip.Addr]int{}}
	for kind, protocols := range map[Kind][]string{TLS: nil, HTTPS: {"h2", "http/1.1"}} {
		s.tls[kind] = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cfg.Certificate() },
			NextProtos:     protocols,
		}
	}
	return s, nil
}

// Addr returns the address of the front.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Connections returns the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Serve serves connections until ctx ends, and then closes them.
func (s *Server) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.ln.Close() })()
	defer s.wg.Wait()
	for {
		c, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // too many open files, say
			if !backoff.Sleep(ctx, acceptPause) {
				return nil
			}
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
			if reason, err := s.connect(ctx, conn); err != nil && ctx.Err() == nil {
				s.cfg.Failed(reason, err)
			}
		})
	}
}

// enter takes what a connection needs, until leave returns it.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.cfg.Conns || !s.cfg.Memory.Reserve(ConnMemory) {
		return false
	}
	s.open++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.cfg.Memory.Release(ConnMemory)
}

// count counts a connection of a client, until uncount. It returns false if the client has its share already.
func (s *Server) count(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[client] >= max(s.cfg.Conns/2, 1) {
		return false
	}
	s.clients[client]++
	return true
}

func (s *Server) uncount(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[client]--; s.clients[client] == 0 {
		delete(s.clients, client)
	}
}

// connect shakes hands with the client before it connects to the target, so that strangers to TLS cost the target nothing,
// and relays until both directions have ended.
func (s *Server) connect(ctx context.Context, conn *net.TCPConn) (Reason, error) {
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	in := bufio.NewReader(conn)
	f, err := readFlow(in)
	if err != nil {
		return Handshake, err
	}
	if !s.count(f.Client) {
		reset(conn)
		return LimitReached, fmt.Errorf("too many connections of %s", f.Client)
	}
	defer s.uncount(f.Client)
	if f.Kind == HTTP {
		conn.SetDeadline(time.Time{})
		s.cfg.HTTP(buffered{conn, in}, f)
		return "", nil
	}
	client := tls.Server(buffered{conn, in}, s.tls[f.Kind])
	if err := client.HandshakeContext(ctx); err != nil {
		if _, missing := s.cfg.Certificate(); missing != nil {
			return Certificate, missing
		}
		return Handshake, err
	}
	if f.Kind == HTTPS {
		conn.SetDeadline(time.Time{})
		s.cfg.HTTP(client, f)
		return "", nil
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	c, err := s.cfg.Dial(dialing, f.Target)
	cancel()
	if err != nil {
		reset(conn)
		return Target, err
	}
	target := c.(*net.TCPConn)
	defer target.Close()
	if _, err := target.Write(f.Header); err != nil {
		reset(conn)
		return Target, err
	}
	conn.SetDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { target.Close() })()
	duplex.Copy(&clientConn{Conn: client, tcp: conn, silence: s.silence}, targetConn{target})
	return "", nil
}

// buffered reads a connection through a buffer. It has few of the connection's methods: some, such as WriteTo, would pass by
// the buffer.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

func (b buffered) CloseWrite() error { return b.Conn.(*net.TCPConn).CloseWrite() }

// clientConn is the client's side of a [duplex.Copy]. Once the target has ended, a client that is silent is reset: its program
// may keep the connection for ever, and nothing else would notice that the target is gone.
type clientConn struct {
	*tls.Conn
	tcp     *net.TCPConn // below Conn
	silence time.Duration
	ended   atomic.Bool // the target
}

// Read implements [duplex.Conn].
func (c *clientConn) Read(p []byte) (int, error) {
	if c.ended.Load() {
		c.limit()
	}
	return c.Conn.Read(p)
}

func (c *clientConn) limit() { c.tcp.SetReadDeadline(time.Now().Add(c.silence)) }

// CloseWrite implements [duplex.Conn].
func (c *clientConn) CloseWrite() error {
	c.ended.Store(true)
	c.limit()
	return errors.Join(c.Conn.CloseWrite(), c.tcp.CloseWrite())
}

// Reset implements [duplex.Conn].
func (c *clientConn) Reset() { reset(c.tcp) }

// targetConn is the target's side of a [duplex.Copy].
type targetConn struct{ *net.TCPConn }

// Reset implements [duplex.Conn].
func (c targetConn) Reset() { reset(c.TCPConn) }

// reset closes a connection with a reset, so that the other end knows that it did not end as it should.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
