package target

import "net"

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

// answerDNS treats every datagram as a query with exactly one question.
func answerDNS(c *net.UDPConn) {
	const headerLen = 12
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf[:len(buf)-len(answerRecord)])
		if err != nil {
			return
		}
		if n < headerLen {
			continue
		}
		end := headerLen // of the question; a query's EDNS record is dropped
		for end < n && buf[end] != 0 {
			end += 1 + int(buf[end])
		}
		if n = min(n, end+5); n < end+5 {
			continue
		}
		buf[2] |= 0x80                     // a response
		buf[7], buf[10], buf[11] = 1, 0, 0 // with one answer
		c.WriteToUDPAddrPort(append(buf[:n], answerRecord...), from)
	}
}
