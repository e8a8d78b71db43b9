package routesource

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dial connects to a DNS server.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

// lookUp resolves a host with Go's resolver, by the machine's DNS configuration, and returns
// the shortest TTL of the answers; 0 if it is unknown, as for a name in /etc/hosts.
//
// Go's resolver does not report TTLs, so its connections record them.
func (d dial) lookUp(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	var seen ttls
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d(ctx, network, address)
		if udp, ok := c.(*net.UDPConn); ok { // an answer over TCP is too large to be of interest
			return recordingConn{udp, &seen}, nil
		}
		return c, err
	}}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	return addrs, seen.shortest(), err
}

// recordingConn records the TTLs of the DNS messages that are read from it. The resolver uses
// only Read.
type recordingConn struct {
	*net.UDPConn
	seen *ttls
}

func (c recordingConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	if err == nil {
		c.seen.record(b[:n])
	}
	return n, err
}

// ttls holds the shortest TTL of the answers to a look-up. A forged answer, which the resolver
// drops, counts too: the bounds of the interval limit its effect.
type ttls struct {
	mu    sync.Mutex // covers the fields below: IPv4 and IPv6 are looked up in parallel
	any   bool
	least uint32 // in seconds
}

// record takes the TTLs of one DNS message.
func (t *ttls) record(message []byte) {
	var p dnsmessage.Parser
	if h, err := p.Start(message); err != nil || !h.Response || h.RCode != dnsmessage.RCodeSuccess || p.SkipAllQuestions() != nil {
		return
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil || p.SkipAnswer() != nil {
			return
		}
		t.mu.Lock()
		if !t.any || h.TTL < t.least {
			t.any, t.least = true, h.TTL
		}
		t.mu.Unlock()
	}
}

// shortest returns the shortest TTL, at least 1 s; 0 means that there was none.
func (t *ttls) shortest() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.any {
		return 0
	}
	const most = 7 * 24 * 3600 // RFC 8767
	return time.Duration(min(max(t.least, 1), most)) * time.Second
}
