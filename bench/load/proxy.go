package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Proxy is a proxy on the way to an IPv4 address. The zero value is none.
type Proxy struct {
	Kind    string // SOCKS5 or HTTP
	Address string // host:port
}

// The values of [Proxy.Kind].
const (
	SOCKS5 = "SOCKS5" // RFC 1928, without authentication
	HTTP   = "HTTP"   // CONNECT
)

// dial connects to an address, through the proxy if there is one.
func (p Proxy) dial(ctx context.Context, address string, patience time.Duration) (net.Conn, error) {
	if p == (Proxy{}) {
		return dial(ctx, address, patience)
	}
	c, err := dial(ctx, p.Address, patience)
	if err != nil {
		return nil, err
	}
	through, err := p.ask(c.(*net.TCPConn), address)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("connecting through the %s proxy: %w", p.Kind, err)
	}
	return through, nil
}

func (p Proxy) ask(c *net.TCPConn, address string) (net.Conn, error) {
	if p.Kind == HTTP {
		return connect(c, address)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return nil, err
	}
	var answer [10]byte // of the request: both routers reply with an IPv4 address
	if _, err := io.ReadFull(c, answer[:2]); err != nil {
		return nil, err
	}
	request := append([]byte{5, 1, 0, 1}, to.Addr().AsSlice()...)
	if _, err := c.Write(binary.BigEndian.AppendUint16(request, to.Port())); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return nil, err
	}
	if answer[1] != 0 || answer[3] != 1 {
		return nil, fmt.Errorf("the reply is % x", answer)
	}
	return c, nil
}

func connect(c *net.TCPConn, address string) (net.Conn, error) {
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address); err != nil {
		return nil, err
	}
	// The response and the stream's first bytes may come together.
	r := bufio.NewReaderSize(c, 512)
	answer, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the response is %s", answer.Status)
	}
	return readAhead{c, r}, nil
}

// readAhead is a connection of which a reader may have read some bytes already.
type readAhead struct {
	*net.TCPConn
	r io.Reader
}

// Read implements [net.Conn].
func (c readAhead) Read(b []byte) (int, error) { return c.r.Read(b) }
