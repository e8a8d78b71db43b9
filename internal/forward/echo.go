package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// echoWait is how long an answer is waited for; ping's own patience is shorter.
const echoWait = 10 * time.Second

// maxEchoes bounds what waits for an answer, so that to find a free sequence number
// stays quick whatever is pinged.
const maxEchoes = 4096

// deliverICMP forwards an echo request through one of the two sockets that all
// echoes share: no process and no goroutine for each. Of other messages there is
// nothing to forward: errors are of flows that the router itself ends.
func (f *Forwarder) deliverICMP(p *inbound) {
	if !p.isEchoRequest() {
		return
	}
	client, dst, idSeq := p.src, p.dst, [4]byte(p.payload[4:8])
	data := p.payload[8:]
	to := f.routes.of(dst)
	if verdict := f.check(p.protocol, flowKey{netip.AddrPortFrom(client, 0), netip.AddrPortFrom(dst, 0)}); verdict != allowed {
		f.metrics.failed["icmp"][forbidden].Inc()
		if verdict == denied {
			f.refuse(p, adminProhibited)
		}
		return
	}
	f.metrics.opened["icmp"].Inc()
	err := f.pinger.send(targetOf(dst), data, func(answer []byte) {
		f.metrics.toTailnet["icmp"].Add(float64(len(answer)))
		to.toTailnet.Add(float64(len(answer)))
		f.sendEchoReply(client, dst, idSeq, answer)
	})
	if err != nil {
		f.failed("icmp", to, dialFailure(err))
		f.log.Debug("forwarding echo request failed", "target", targetOf(dst).String(), "err", err)
		return
	}
	f.metrics.toVPC["icmp"].Add(float64(len(data)))
	to.toVPC.Add(float64(len(data)))
}

// pinger sends echo requests under sequence numbers of its own, and hands each
// answer to whoever asked.
type pinger struct {
	v4, v6 *echoSocket // nil where the system gives none
	why    error

	mu      sync.Mutex
	next    uint16
	pending map[uint16]*pendingEcho
}

type pendingEcho struct {
	target netip.Addr
	reply  func([]byte)
	expire *time.Timer
}

func newPinger(ctx context.Context, log *slog.Logger) *pinger {
	p := &pinger{pending: map[uint16]*pendingEcho{}, next: uint16(rand.Uint32())}
	var err4, err6 error
	p.v4, err4 = openEcho(echo4)
	p.v6, err6 = openEcho(echo6)
	if p.v4 == nil {
		log.Warn("ping through the router will not work: no ICMP socket", "err", err4,
			"fix", "grant CAP_NET_RAW, or let net.ipv4.ping_group_range hold the process's group")
		p.why = err4
	} else if p.v6 == nil {
		log.Debug("ping over IPv6 will not work: no ICMPv6 socket", "err", err6)
	}
	for _, s := range []*echoSocket{p.v4, p.v6} {
		if s != nil {
			go p.receive(s)
			context.AfterFunc(ctx, func() { s.conn.Close() })
		}
	}
	return p
}

// CanPing reports whether this process gets the sockets for ping; a nil error is yes.
func CanPing() (v4, v6 error) {
	try := func(f echoFamily) error {
		s, err := openEcho(f)
		if err == nil {
			s.conn.Close()
		}
		return err
	}
	return try(echo4), try(echo6)
}

func (p *pinger) send(target netip.Addr, data []byte, reply func([]byte)) error {
	s := p.v4
	if target.Is6() {
		s = p.v6
	}
	if s == nil {
		return fmt.Errorf("no ICMP socket for %v: %w", target, p.why)
	}
	seq, ok := p.expect(target, reply)
	if !ok {
		return fmt.Errorf("%d echo requests are under way", maxEchoes)
	}
	msg := icmp.Message{Type: s.request, Body: &icmp.Echo{ID: s.id, Seq: int(seq), Data: data}}
	raw, err := msg.Marshal(nil) // the kernel fills in the ICMPv6 checksum
	if err == nil {
		_, err = s.conn.WriteTo(raw, s.address(target))
	}
	if err != nil {
		p.take(seq)
	}
	return err
}

func (p *pinger) expect(target netip.Addr, reply func([]byte)) (seq uint16, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) >= maxEchoes {
		return 0, false
	}
	for range 1 << 16 {
		p.next++
		if _, taken := p.pending[p.next]; !taken {
			seq = p.next
			p.pending[seq] = &pendingEcho{target, reply, time.AfterFunc(echoWait, func() { p.take(seq) })}
			return seq, true
		}
	}
	return 0, false
}

func (p *pinger) take(seq uint16) *pendingEcho {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.pending[seq]
	if e != nil {
		delete(p.pending, seq)
		e.expire.Stop()
	}
	return e
}

func (p *pinger) receive(s *echoSocket) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an error of some echo
		}
		// Type, code, checksum, identifier, sequence number, data.
		msg := buf[:n]
		if len(msg) < 8 || msg[0] != s.reply {
			continue
		}
		if s.raw && int(binary.BigEndian.Uint16(msg[4:])) != s.id {
			continue // some other process's
		}
		seq := binary.BigEndian.Uint16(msg[6:])
		p.mu.Lock()
		e := p.pending[seq]
		p.mu.Unlock()
		if e == nil || e.target != addrOf(from) {
			continue // late, or not from whom we asked
		}
		if e = p.take(seq); e != nil {
			e.reply(msg[8:])
		}
	}
}

// echoSocket is an ICMP socket, unprivileged where the system allows.
type echoSocket struct {
	conn    *icmp.PacketConn
	raw     bool
	id      int
	request icmp.Type
	reply   byte
}

type echoFamily struct {
	unprivileged, raw, any string
	request                icmp.Type
	reply                  byte
}

var (
	echo4 = echoFamily{"udp4", "ip4:icmp", "0.0.0.0", ipv4.ICMPTypeEcho, byte(ipv4.ICMPTypeEchoReply)}
	echo6 = echoFamily{"udp6", "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, byte(ipv6.ICMPTypeEchoReply)}
)

func openEcho(f echoFamily) (*echoSocket, error) {
	s := &echoSocket{id: rand.IntN(1 << 16), request: f.request, reply: f.reply}
	var err error
	if s.conn, err = icmp.ListenPacket(f.unprivileged, f.any); err == nil {
		return s, nil
	}
	s.raw = true
	if s.conn, err = icmp.ListenPacket(f.raw, f.any); err == nil {
		return s, nil
	}
	return nil, err
}

func (s *echoSocket) address(a netip.Addr) net.Addr {
	if s.raw {
		return &net.IPAddr{IP: a.AsSlice()}
	}
	return &net.UDPAddr{IP: a.AsSlice()}
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	case *net.IPAddr:
		addr, _ := netip.AddrFromSlice(a.IP)
		return addr.Unmap()
	}
	return netip.Addr{}
}
