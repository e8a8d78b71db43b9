package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"subnetrouter/internal/duplex"
)

// Flow describes a flow into the tailnet that has ended.
type Flow struct {
	Protocol string         // tcp or udp
	Via      string         // socks5, http or port
	Client   netip.AddrPort // the program
	Target   string         // as asked for, host:port
	Address  netip.AddrPort // that was dialed
	Opened   time.Time
	Duration time.Duration
	Dial     time.Duration // until the connection was open
	End      string        // closed, or failed if an error ended it

	ToTailnetBytes, ToVPCBytes int64
}

// The values of [Flow.Via].
const (
	viaSOCKS5 = "socks5"
	viaHTTP   = "http"
	viaPort   = "port"
)

// origin is the program that a flow is opened for.
type origin struct {
	client netip.AddrPort
	via    string
}

// flow is an open connection into the tailnet, which counts its bytes.
type flow struct {
	net.Conn
	server *Server
	info   Flow
	target *target
	up     atomic.Int64 // bytes to the tailnet
	down   atomic.Int64
	failed atomic.Bool
	once   sync.Once
}

// dial opens a flow.
func (s *Server) dial(ctx context.Context, from origin, network, to string) (*flow, error) {
	if err := checkTarget(to); err != nil {
		s.metrics.failed(network, invalid)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	start := time.Now()
	conn, err := s.connect(ctx, network, to)
	if err != nil {
		reason := reasonOf(err)
		s.metrics.failed(network, reason)
		s.cfg.Logger.Debug("connecting into the tailnet failed", "protocol", network, "via", from.via, "client", from.client.String(), "target", to, "reason", string(reason), "err", err)
		return nil, err
	}
	return &flow{Conn: conn, server: s, target: s.metrics.opened(network, to), info: Flow{
		Protocol: network, Via: from.via, Client: from.client, Target: to, Address: addrPort(conn.RemoteAddr()),
		Opened: start, Dial: time.Since(start),
	}}, nil
}

// join copies between a program and a flow until both directions have ended, and closes both.
func join(c *client, f *flow) {
	duplex.Copy(c, f)
	f.Close()
	c.Close()
}

// memoryOf returns the memory of a flow's buffers in bytes, apart from the datagrams that wait.
func memoryOf(network string) int64 {
	if network == "udp" {
		return maxDatagram
	}
	return 2 * duplex.BufferSize
}

// connect dials, with the memory for a flow, which the flow's end returns.
func (s *Server) connect(ctx context.Context, network, to string) (net.Conn, error) {
	if !s.cfg.Memory.Reserve(memoryOf(network)) {
		return nil, fmt.Errorf("%w: their buffers have no more memory", ErrLimit)
	}
	conn, err := s.cfg.Dial(ctx, network, to)
	if err != nil {
		s.cfg.Memory.Release(memoryOf(network))
	}
	return conn, err
}

var errInvalid = errors.New("not a target")

// checkTarget verifies the form of a target, which a program has sent.
func checkTarget(to string) error {
	host, service, err := net.SplitHostPort(to)
	if err != nil {
		return fmt.Errorf("%w: %q is not host:port", errInvalid, to)
	}
	if port, err := strconv.ParseUint(service, 10, 16); err != nil || port == 0 {
		return fmt.Errorf("%w: %q has a port that is not a number from 1 to 65535", errInvalid, to)
	}
	if host == "" || len(host) > 253 {
		return fmt.Errorf("%w: %q has a host of %d characters", errInvalid, to, len(host))
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c >= 0x7f || c == '%' || c == '/' {
			return fmt.Errorf("%w: %q has characters that no name or address has", errInvalid, to)
		}
	}
	return nil
}

// Read implements [net.Conn].
func (f *flow) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	f.down.Add(int64(n))
	f.target.toVPC.Add(float64(n))
	return n, err
}

// Write implements [net.Conn].
func (f *flow) Write(b []byte) (int, error) {
	n, err := f.Conn.Write(b)
	f.up.Add(int64(n))
	f.target.toTailnet.Add(float64(n))
	return n, err
}

// CloseWrite implements [duplex.Conn].
func (f *flow) CloseWrite() error {
	if c, ok := f.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Reset implements [duplex.Conn]: it ends the flow as failed. The target's host gets a reset, where that is possible.
func (f *flow) Reset() {
	f.failed.Store(true)
	if c, ok := f.Conn.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
	f.Close()
}

// Close implements [net.Conn]. The first call ends the flow.
func (f *flow) Close() error {
	err := f.Conn.Close()
	f.once.Do(func() {
		f.server.metrics.closed(f.info.Protocol, f.target)
		f.server.cfg.Memory.Release(memoryOf(f.info.Protocol))
		if f.server.cfg.Finished == nil {
			return
		}
		f.info.Duration = time.Since(f.info.Opened)
		f.info.ToTailnetBytes, f.info.ToVPCBytes = f.up.Load(), f.down.Load()
		f.info.End = "closed"
		if f.failed.Load() {
			f.info.End = "failed"
		}
		f.server.cfg.Finished(f.info)
	})
	return err
}

// reason is why a flow could not be opened. The set is closed: it is a metric's label.
type reason string

const (
	invalid     reason = "invalid"
	forbidden   reason = "forbidden"
	notFound    reason = "not_found"
	refused     reason = "refused"
	unreachable reason = "unreachable"
	timedOut    reason = "timed_out"
	limited     reason = "limited"
	other       reason = "other"
)

var reasons = []reason{invalid, forbidden, notFound, refused, unreachable, timedOut, limited, other}

// reasonOf returns the reason of an error of [Config.Dial].
func reasonOf(err error) reason {
	var dns *net.DNSError
	var slow net.Error
	switch {
	case errors.Is(err, ErrForbidden):
		return forbidden
	case errors.Is(err, ErrLimit):
		return limited
	case errors.Is(err, errInvalid):
		return invalid
	case errors.As(err, &dns) && dns.IsNotFound:
		return notFound
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return unreachable
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return timedOut
	default:
		return other
	}
}
