package egress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"subnetrouter/internal/acceptor"
)

// httpProxy is the HTTP proxy: CONNECT, and requests with an absolute http URL.
type httpProxy struct {
	server *Server
	http   *http.Server
	plain  *httputil.ReverseProxy
	conns  *acceptor.Acceptor
}

// clientKey is the context key of a request's [*client].
type clientKey struct{}

func newHTTPProxy(s *Server) *httpProxy {
	p := &httpProxy{server: s, conns: acceptor.New()}
	quiet := slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug)
	p.plain = &httputil.ReverseProxy{
		Rewrite:      rewrite,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { refuseHTTP(w, err) },
		ErrorLog:     quiet,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
				return s.dial(ctx, originOf(ctx), "tcp", to)
			},
			DisableCompression: true,
			// Each connection is one program's, in the log and at the target.
			DisableKeepAlives: true,
		},
	}
	p.http = &http.Server{
		Handler:           p,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, clientKey{}, c) },
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ErrorLog:          quiet,
	}
	return p
}

// serve serves the connections handed over until drain.
func (p *httpProxy) serve() { p.http.Serve(p.conns) }

func originOf(ctx context.Context) origin {
	from := origin{via: viaHTTP}
	if c, ok := ctx.Value(clientKey{}).(*client); ok {
		from.client = c.addr
	}
	return from
}

// serveHTTP hands a connection over to the HTTP server.
func (s *Server) serveHTTP(c *client) {
	select {
	case s.http.conns.Conns() <- c:
	case <-s.http.conns.Done():
		c.Close()
	case <-s.ctx.Done():
		c.Close()
	}
}

// drain closes idle connections, and others after their current request. Tunnels continue.
func (p *httpProxy) drain() {
	p.http.SetKeepAlivesEnabled(false)
	go p.http.Shutdown(p.server.ctx)
}

// ServeHTTP implements [http.Handler].
func (p *httpProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		p.plain.ServeHTTP(w, r)
	default:
		http.Error(w, "this is an HTTP proxy into the tailnet: send CONNECT, or a request with an absolute http:// URL", http.StatusBadRequest)
	}
}

// rewrite passes a request on as it came. ReverseProxy removes the hop-by-hop headers, and also query parameters that Go
// cannot parse and the headers below, which are not this proxy's to change.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.Host = r.In.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
}

func (p *httpProxy) connect(w http.ResponseWriter, r *http.Request) {
	f, err := p.server.dial(r.Context(), originOf(r.Context()), "tcp", r.Host)
	if err != nil {
		refuseHTTP(w, err)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.Close()
		refuseHTTP(w, err)
		return
	}
	c := conn.(*client)
	c.SetDeadline(time.Time{})
	if c.seen, err = readBuffered(buffered.Reader); err == nil {
		_, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	}
	if err != nil {
		f.Close()
		c.Close()
		return
	}
	join(c, f)
}

// readBuffered returns the bytes that a program has sent after its request already.
func readBuffered(r *bufio.Reader) ([]byte, error) {
	b := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, b)
	return b, err
}

// refuseHTTP answers a request whose target cannot be reached.
func refuseHTTP(w http.ResponseWriter, err error) {
	code := http.StatusBadGateway
	switch reasonOf(err) {
	case forbidden:
		code = http.StatusForbidden
	case invalid:
		code = http.StatusBadRequest
	case timedOut:
		code = http.StatusGatewayTimeout
	case limited:
		code = http.StatusServiceUnavailable
	case notFound, refused, unreachable, other:
	}
	if errors.Is(err, context.Canceled) {
		return // the program has gone
	}
	http.Error(w, err.Error(), code)
}
