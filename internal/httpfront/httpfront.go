// Package httpfront is the reverse proxy of served ports with HTTP: it answers requests on connections that a front has accepted, with
// what the target of the connection answers to them. Headers tell the target who the client is.
package httpfront

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/acceptor"
	"subnetrouter/internal/duplex"
)

// Config configures a [Server].
type Config struct {
	// Dial connects to a target.
	Dial func(ctx context.Context, target netip.AddrPort) (net.Conn, error)
	// Owner returns the user whose device has an address; the zero User for a device with tags, and an unknown address. Each
	// request calls it.
	Owner func(netip.Addr) User
	// Current reports whether a target is still that of a served port: connections of clients may live longer. Each request calls it.
	Current func(target netip.AddrPort) bool
	// OwnName reports whether a host, without a port and in lower case, is a name or an address of this node.
	OwnName func(host string) bool
	// Requests bounds the requests at one time, and with IdleTargets the connections to targets. One client has half of the
	// requests at most, and with IdleTargets as many connections.
	Requests int
	// Memory gives the memory of requests, requestMemory each, and of connections with HTTP/2.
	Memory duplex.Memory
	// Failed is called with the reason of each request that did not reach its target.
	Failed func(Reason, error)
	Logger *slog.Logger
}

// Reason is why a request did not reach its target.
type Reason string

const (
	LimitReached Reason = "limit"  // Config.Requests, the client's share of them, or Config.Memory
	Target       Reason = "target" // it refused the connection, or answered with something other than HTTP, or not at all
)

// User is the owner of a device, as control has it. The strings are not checked.
type User struct {
	Login, Name, Picture string // Picture is a URL
}

// Peer describes a connection.
type Peer struct {
	Client netip.Addr     // the address that counts as its node's
	Source netip.Addr     // the address that the client has sent from
	Target netip.AddrPort // of the requests
}

const (
	headerTimeout = 10 * time.Second // of a request; a connection may be idle for idleTimeout before one
	idleTimeout   = 2 * time.Minute
	dialTimeout   = 10 * time.Second
	silence       = 2 * time.Minute // of a client whose target has ended, after a switch to another protocol
	stallTimeout  = time.Minute     // of a client that does not read its answer, or does not send its body
	// targetIdle is how long a connection to a target waits for the next request. It is shorter than the time after which
	// common servers close an idle connection (2 s or more), because a request that meets the close fails.
	targetIdle = time.Second
	// IdleTargets is the number of connections to targets that wait for a request at most.
	IdleTargets = 16

	maxHeader     = 32 << 10 // bytes, of a request: they fit the memory of its connection
	maxAnswer     = 64 << 10 // bytes, of the header of an answer
	streams       = 100      // of a connection with HTTP/2; RFC 9113 asks for 100 or more
	bufferSize    = 16 << 10 // of an answer
	requestMemory = maxHeader + maxAnswer + 2*bufferSize
	// window is how much of its requests' bodies a client with HTTP/2 sends ahead: at 80 ms to the client, 3 MB/s.
	window = 256 << 10
)

// Server answers requests until it is closed. A drain starts its second half: new connections have one request each then.
type Server struct {
	cfg         Config
	proxy, grpc *httputil.ReverseProxy
	halves      [2]half
	done        chan struct{} // closed when Serve returns
	silence     time.Duration // the constant; tests shorten it
	stall       time.Duration // stallTimeout, likewise

	mu      sync.Mutex // guards the fields below
	open    int        // requests
	targets int        // connections to targets, also those being dialed
	awaited int        // those of open that a drain waits for
	clients map[netip.Addr]*taken
}

// taken is what a client has taken. The map has the clients that have something.
type taken struct {
	requests int
	targets  int   // connections to targets, also those being dialed, that it used last
	memory   int64 // bytes
}

type half struct {
	http  *http.Server
	conns *acceptor.Acceptor
}

// New returns a server. Its limits do not change.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, clients: map[netip.Addr]*taken{}, done: make(chan struct{}), silence: silence, stall: stallTimeout}
	web := &http.Transport{MaxIdleConns: IdleTargets, MaxIdleConnsPerHost: IdleTargets, IdleConnTimeout: targetIdle}
	s.proxy = s.newProxy(web, web)
	grpc := &http.Transport{Protocols: new(http.Protocols)}
	grpc.Protocols.SetUnencryptedHTTP2(true)
	grpc.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 64 << 10}
	s.grpc = s.newProxy(grpc, single{grpc})
	for i := range s.halves {
		h := &http.Server{
			Handler: s, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
			HTTP2: &http.HTTP2Config{
				MaxConcurrentStreams: streams, MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window, WriteByteTimeout: stallTimeout,
			},
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, peerKey{}, c.(peered).peer())
			},
			ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		}
		s.halves[i] = half{h, acceptor.New()}
	}
	s.halves[1].http.SetKeepAlivesEnabled(false)
	return s
}

// newProxy returns a proxy whose requests go by way of a transport, which is based on t.
func (s *Server) newProxy(t *http.Transport, by http.RoundTripper) *httputil.ReverseProxy {
	t.DialContext = s.dial
	t.DisableCompression = true // the client decides
	t.MaxResponseHeaderBytes = maxAnswer
	t.ExpectContinueTimeout = time.Second
	t.WriteBufferSize, t.ReadBufferSize = 4<<10, 4<<10
	return &httputil.ReverseProxy{
		Transport: by, Rewrite: s.rewrite, BufferPool: new(buffers), ErrorHandler: s.failed,
		ModifyResponse: s.answered, FlushInterval: -1, // what the target has sent waits for nothing
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// single is a transport that opens a connection for each request. With HTTP/2 requests would share one, and a client that does not
// read its answers would stop those of others.
type single struct{ *http.Transport }

// RoundTrip implements [http.RoundTripper].
func (t single) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := t.NewClientConn(r.Context(), r.URL.Scheme, r.URL.Host)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	res, err := c.RoundTrip(r)
	if err != nil {
		c.Close()
		return nil, err
	}
	res.Body = &singleBody{res.Body, c}
	return res, nil
}

// singleBody is the body of an answer with a connection of its own.
type singleBody struct {
	io.ReadCloser
	conn *http.ClientConn
}

// Close implements [io.Closer].
func (b *singleBody) Close() error { return errors.Join(b.ReadCloser.Close(), b.conn.Close()) }

// Serve answers requests until ctx ends, and then closes the connections.
func (s *Server) Serve(ctx context.Context) error {
	defer close(s.done)
	var group sync.WaitGroup
	for _, h := range s.halves {
		group.Go(func() { h.http.Serve(h.conns) })
		defer h.http.Close()
	}
	<-ctx.Done()
	for _, h := range s.halves {
		h.http.Close() // also its listener, which Serve waits for
	}
	group.Wait()
	return nil
}

// Drain closes the connections without a request, and the others after their requests. It returns at once.
func (s *Server) Drain(ctx context.Context) {
	go s.halves[0].http.Shutdown(ctx)
}

// Awaited returns the number of requests that a drain waits for: those that have no end of their own, such as event streams, are not
// among them.
func (s *Server) Awaited() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.awaited
}

// Handle answers the requests of a connection, and returns when the connection has ended. A connection with TLS has shaken hands.
func (s *Server) Handle(c net.Conn, p Peer) {
	with := &conn{Conn: c, of: p, silence: s.silence, closed: make(chan struct{})}
	var serve net.Conn = with
	if t, ok := c.(*tls.Conn); ok {
		serve = &tlsConn{with, t}
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			if !s.reserve(p.Client, window) {
				s.cfg.Failed(LimitReached, errors.New("no memory for a connection with HTTP/2"))
				return
			}
			defer s.unreserve(p.Client, window)
		}
	}
	for _, h := range s.halves {
		select {
		case h.conns.Conns() <- serve:
			<-with.closed
			return
		case <-h.conns.Done():
		case <-s.done:
			return
		}
	}
}

// conn is a connection that a front has accepted. Its embedded interface hides methods such as ReadFrom, which would pass by the
// front's buffer.
type conn struct {
	net.Conn
	of      Peer
	silence time.Duration
	ended   atomic.Bool // CloseWrite was called
	once    sync.Once
	closed  chan struct{}
}

type peered interface{ peer() *conn }

func (c *conn) peer() *conn { return c }

// Close implements [net.Conn].
func (c *conn) Close() error {
	defer c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Read implements [net.Conn]. Once the target has ended, a client that is silent loses the connection, since nothing else would
// notice that the target is gone.
func (c *conn) Read(p []byte) (int, error) {
	if c.ended.Load() {
		c.limit()
	}
	return c.Conn.Read(p)
}

func (c *conn) limit() { c.SetReadDeadline(time.Now().Add(c.silence)) }

// CloseWrite ends the stream towards the client, for connections that have switched to another protocol.
func (c *conn) CloseWrite() error {
	c.ended.Store(true)
	c.limit() // also of a Read that waits
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// tlsConn has the method by which net/http recognizes TLS, and HTTP/2.
type tlsConn struct {
	*conn
	tls *tls.Conn
}

func (c *tlsConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// peerKey is the context key of a connection's [*conn], and requestKey that of a request's [*request].
type (
	peerKey    struct{}
	requestKey struct{}
)

// request is one request.
type request struct {
	of      Peer
	tls     bool
	body    body
	awaited bool // guarded by the server's mu

	upgraded bool // to WebSocket; for the handler's goroutine
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	q := &request{of: r.Context().Value(peerKey{}).(*conn).of, tls: r.TLS != nil}
	w := s.limit(to, r, q)
	defer s.finish(w, r, q)
	switch path := r.URL.Path; {
	case r.Method == http.MethodConnect:
		http.Error(w, "CONNECT is not supported here: this is not a proxy for other hosts", http.StatusMethodNotAllowed)
		return
	case r.URL.Opaque != "" || path != "" && path[0] != '/' || path == "" && r.URL.Host == "":
		http.Error(w, "the request has no path: it has to begin with a slash", http.StatusBadRequest)
		return
	}
	if !s.cfg.Current(q.of.Target) {
		s.cfg.Failed(Target, fmt.Errorf("%s is no target of a served port any more", q.of.Target))
		unavailable(w, "the program behind this port has moved: try again")
		return
	}
	if err := s.enter(q); err != nil {
		s.cfg.Failed(LimitReached, err)
		busy(w)
		return
	}
	defer s.leave(q)
	if !isWebSocket(r.Header) {
		r.Header.Del("Upgrade") // the proxy passes none on without it
	}
	proxy := s.proxy
	if r.ProtoMajor == 2 && isGRPC(r.Header.Get("Content-Type")) {
		proxy = s.grpc
		q.body.watch.end() // the messages of a stream may be hours apart
	}
	ctx := httptrace.WithClientTrace(context.WithValue(r.Context(), requestKey{}, q), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if c, ok := info.Conn.(*targetConn); ok {
				c.usedBy(q.of.Client)
			}
		},
	})
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

// limit makes a request end if its client neither sends its body nor reads the answer, until finish.
func (s *Server) limit(to http.ResponseWriter, r *http.Request, q *request) *writer {
	w := &writer{ResponseWriter: to, controller: http.NewResponseController(to)}
	w.watch.limit, q.body.watch.limit = s.stall, s.stall
	q.body.watch.expire = func() { w.controller.SetReadDeadline(past()) }
	w.watch.expire = func() {
		if r.ProtoMajor < 2 {
			w.controller.SetReadDeadline(past()) // the rest of a body, which HTTP/1 reads before it writes
		}
		w.controller.SetWriteDeadline(past())
	}
	if r.ProtoMajor < 2 {
		w.controller.SetWriteDeadline(time.Time{}) // finish has set it for the request before
	}
	if r.ContentLength != 0 {
		q.body.ReadCloser = r.Body
		r.Body = &q.body
	}
	return w
}

// finish limits the time in which net/http writes the end of an answer, and reads the rest of a body, after the handler.
func (s *Server) finish(w *writer, r *http.Request, q *request) {
	w.watch.end()
	q.body.watch.end()
	if q.upgraded || r.Context().Err() != nil {
		return
	}
	end := time.Now().Add(s.stall)
	w.controller.SetWriteDeadline(end)
	if r.ProtoMajor < 2 && r.ContentLength != 0 && !q.body.read.Load() {
		w.controller.SetReadDeadline(end)
	}
}

// busy answers a request for which there is no room.
func busy(w http.ResponseWriter) {
	unavailable(w, "this node has too many requests open: try again later")
}

// unavailable refuses a request, and ends its connection: HTTP/2 sends GOAWAY for the header.
func unavailable(w http.ResponseWriter, text string) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Retry-After", "1")
	http.Error(w, text, http.StatusServiceUnavailable)
}

// isWebSocket reports whether a request or an answer switches to WebSocket, the only protocol that may be switched to: others, such
// as h2c, carry requests whose headers would reach the target unchecked.
func isWebSocket(h http.Header) bool {
	return strings.EqualFold(h.Get("Upgrade"), "websocket") && slices.ContainsFunc(h["Connection"], func(value string) bool {
		for token := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(token, " \t"), "upgrade") {
				return true
			}
		}
		return false
	})
}

func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// enter takes what a request needs, until leave returns it.
func (s *Server) enter(q *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(q.of.Client)
	defer s.forget(q.of.Client)
	switch {
	case s.open >= s.cfg.Requests:
		return errors.New("too many requests")
	case c.requests >= max(s.cfg.Requests/2, 1):
		return fmt.Errorf("too many requests of %s", q.of.Client)
	case !s.take(c, requestMemory):
		return errors.New("no memory for the buffers of a request")
	}
	s.open++
	c.requests++
	s.awaited++
	q.awaited = true
	return nil
}

func (s *Server) leave(q *request) {
	s.release(q)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.forget(q.of.Client)
	c := s.client(q.of.Client)
	s.cfg.Memory.Release(requestMemory)
	c.memory -= requestMemory
	c.requests--
	s.open--
}

// client returns what a client has taken. The caller holds mu, and calls forget afterwards.
func (s *Server) client(a netip.Addr) *taken {
	if s.clients[a] == nil {
		s.clients[a] = new(taken)
	}
	return s.clients[a]
}

// forget removes a client that has nothing. The caller holds mu.
func (s *Server) forget(a netip.Addr) {
	if *s.clients[a] == (taken{}) {
		delete(s.clients, a)
	}
}

// take reserves memory for a client, if as much as it has already stays free for others: so none gets more than half. The caller
// holds mu.
func (s *Server) take(c *taken, n int64) bool {
	if !s.cfg.Memory.Reserve(c.memory + n) {
		return false
	}
	s.cfg.Memory.Release(c.memory)
	c.memory += n
	return true
}

// reserve takes memory for a client, until unreserve. It returns false if there is none.
func (s *Server) reserve(a netip.Addr, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.forget(a)
	return s.take(s.client(a), n)
}

func (s *Server) unreserve(a netip.Addr, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.forget(a)
	s.cfg.Memory.Release(n)
	s.client(a).memory -= n
}

// release lets a drain end before a request.
func (s *Server) release(q *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.awaited {
		q.awaited = false
		s.awaited--
	}
}

// answered is called with the header of each answer. After an error, the proxy closes the connection to the target.
func (s *Server) answered(res *http.Response) error {
	// The proxy would refuse such an answer later, and leave the connection open.
	if res.StatusCode == http.StatusSwitchingProtocols && !(isWebSocket(res.Request.Header) && isWebSocket(res.Header)) {
		return errors.New("the target has switched to a protocol that the client did not ask for")
	}
	q := res.Request.Context().Value(requestKey{}).(*request)
	q.body.watch.end() // the body may last as long as the answer
	q.upgraded = res.StatusCode == http.StatusSwitchingProtocols
	if q.upgraded || strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		s.release(q)
	}
	return nil
}

// failed answers a request to which the target has no answer. The cause is for the log, not for the client.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	q := r.Context().Value(requestKey{}).(*request)
	switch {
	case r.Context().Err() != nil: // the client has gone
		panic(http.ErrAbortHandler)
	case errors.Is(err, errTargets):
		s.cfg.Failed(LimitReached, err)
		busy(w)
	case q.body.failed.Load():
		http.Error(w, "the body of the request is malformed, or incomplete", http.StatusBadRequest)
	default:
		s.cfg.Failed(Target, err)
		w.Header().Set("Connection", "close") // a new connection may lead to another target
		http.Error(w, "the program behind this port does not answer", http.StatusBadGateway)
	}
}

// body is a request's, and knows whether the client has failed to send it. The proxy may close it during a read.
type body struct {
	io.ReadCloser
	failed, closed atomic.Bool
	read           atomic.Bool // to its end
	watch          watch
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	b.watch.start()
	n, err := b.ReadCloser.Read(p)
	b.watch.stop()
	if err == io.EOF {
		b.read.Store(true)
	}
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.failed.Store(true)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

var errTargets = errors.New("too many connections to targets")

// dial connects to a target, whose address and port is to. It bounds the connections, because the transport does not end the dial
// for a request that was canceled: a client could leave any number of them behind.
func (s *Server) dial(ctx context.Context, _, to string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	by := ctx.Value(requestKey{}).(*request).of.Client
	if !s.openTarget(by) {
		return nil, errTargets
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := s.cfg.Dial(ctx, target)
	if err != nil {
		s.closeTarget(by)
		return nil, err
	}
	return &targetConn{Conn: c, server: s, by: by}, nil
}

// openTarget counts a connection to a target for a client, until closeTarget. It returns false if there is no room.
func (s *Server) openTarget(by netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client(by)
	defer s.forget(by)
	// A client with fewer requests than its share has room, also if it used all of the idle connections last.
	if s.targets >= s.cfg.Requests+IdleTargets || c.targets >= max(s.cfg.Requests/2, 1)+IdleTargets {
		return false
	}
	s.targets++
	c.targets++
	return true
}

func (s *Server) closeTarget(by netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.forget(by)
	s.client(by).targets--
	s.targets--
}

// targetConn is a connection to a target.
type targetConn struct {
	net.Conn
	server *Server
	closed bool       // guarded by the server's mu
	by     netip.Addr // the client that used it last; likewise
}

// usedBy counts the connection as that of the client whose request uses it.
func (c *targetConn) usedBy(a netip.Addr) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.closed || c.by == a {
		return
	}
	s.client(c.by).targets--
	s.forget(c.by)
	s.client(a).targets++
	c.by = a
}

// Close implements [net.Conn].
func (c *targetConn) Close() error {
	err := c.Conn.Close()
	s := c.server
	s.mu.Lock()
	by, closed := c.by, c.closed
	c.closed = true
	s.mu.Unlock()
	if !closed {
		s.closeTarget(by)
	}
	return err
}

// CloseWrite passes the end of a client's stream on.
func (c *targetConn) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// buffers is a [httputil.BufferPool].
type buffers struct{ pool sync.Pool }

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

// Put implements [httputil.BufferPool].
func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferSize]byte)(p)) }
