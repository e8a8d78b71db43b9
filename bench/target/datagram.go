package target

import (
	"net"
	"net/netip"
	"time"
)

func echo(c *net.UDPConn) {
	buf := make([]byte, 65535)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		c.WriteToUDPAddrPort(buf[:n], from)
	}
}

// answerRecord is an A record for the name in the question: 10.0.3.4, TTL 60 s.
var answerRecord = []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 3, 4}

// metered is the top-level domain, in wire format, whose names are answered awsLimit times a second to
// one address.
const (
	metered  = "\x07metered"
	awsLimit = 1024 // packets a second of one network interface, above which AWS drops
)

// answerDNS treats every datagram as a query with exactly one question.
func answerDNS(c *net.UDPConn) {
	const headerLen = 12
	buf := make([]byte, 1500)
	var meter meter
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf[:len(buf)-len(answerRecord)])
		if err != nil {
			return
		}
		if n < headerLen {
			continue
		}
		end, last := headerLen, headerLen // of the question; a query's EDNS record is dropped
		for end < n && buf[end] != 0 {
			last, end = end, end+1+int(buf[end])
		}
		if n = min(n, end+5); n < end+5 {
			continue
		}
		if string(buf[last:end]) == metered && !meter.admits(from.Addr()) {
			continue
		}
		buf[2] |= 0x80                     // a response
		buf[7], buf[10], buf[11] = 1, 0, 0 // with one answer
		c.WriteToUDPAddrPort(append(buf[:n], answerRecord...), from)
	}
}

// meter counts the queries of each address in the current second.
type meter struct {
	second int64
	counts map[netip.Addr]int
}

func (m *meter) admits(a netip.Addr) bool {
	if now := time.Now().Unix(); now != m.second || m.counts == nil {
		m.second, m.counts = now, map[netip.Addr]int{}
	}
	m.counts[a]++
	return m.counts[a] <= awsLimit
}
