package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/testwait"

	"github.com/prometheus/client_golang/prometheus"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

var patience = testwait.Limit()

var (
	client4 = netip.MustParseAddr("100.64.0.2")
	client6 = netip.MustParseAddr("fd7a:115c:a1e0::2")
)

// client is a host of the tailnet with its own stack, whose packets pass through a Forwarder as
// if WireGuard were between them.
type client struct {
	t     *testing.T
	f     *Forwarder
	reg   *prometheus.Registry
	stack *stack.Stack
	ep    *channel.Endpoint
	icmp  chan quotedError // ICMP errors received, which gVisor's sockets do not report; nil to ignore them
}

// quotedError is an ICMP error and the ports of the datagram that it quotes.
type quotedError struct {
	typ, code        uint8
	srcPort, dstPort uint16
}

func newClient(t *testing.T, edit func(*Config)) *client {
	t.Helper()
	return newClientWithICMP(t, make(chan quotedError, 16), edit)
}

func newClientWithICMP(t *testing.T, errors chan quotedError, edit func(*Config)) *client {
	t.Helper()
	return startClient(t, errors, edit, func(*Forwarder) {})
}

// startClient starts a client with a forwarder that prepare may change before its workers run.
func startClient(t *testing.T, errors chan quotedError, edit func(*Config), prepare func(*Forwarder)) *client {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	cfg := Config{Registerer: reg, Logger: slog.New(slog.DiscardHandler), Resolve: toLoopback}
	if edit != nil {
		edit(&cfg)
	}
	f, err := build(cfg)
	if err != nil {
		t.Fatal(err)
	}
	prepare(f)
	f.start()
	c := &client{t: t, f: f, reg: reg, ep: channel.New(1<<14, 1280, ""), icmp: errors}
	c.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := c.stack.CreateNIC(1, c.ep); err != nil {
		t.Fatal(err)
	}
	for addr, protocol := range map[netip.Addr]tcpip.NetworkProtocolNumber{client4: ipv4.ProtocolNumber, client6: ipv6.ProtocolNumber} {
		if err := c.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{
			Protocol: protocol, AddressWithPrefix: tcpip.AddrFromSlice(addr.AsSlice()).WithPrefix(),
		}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	c.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	go c.sendLoop(ctx)
	received := make(chan struct{})
	go func() { defer close(received); c.receiveLoop() }()
	t.Cleanup(func() {
		f.Close()
		<-received
		cancel()
		c.stack.Close()
	})
	return c
}

// toLoopback keeps the tests on this machine: it maps each target to its port on loopback of
// the same family.
func toLoopback(_ string, target netip.AddrPort) (netip.AddrPort, error) {
	if target.Addr().Is4() {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), target.Port()), nil
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), target.Port()), nil
}

// sendLoop delivers packets in batches, as WireGuard does, and overwrites their memory afterwards.
func (c *client) sendLoop(ctx context.Context) {
	const offset, maxBatch = 16, 128
	for {
		var batch [][]byte
		for pkt := c.ep.ReadContext(ctx); pkt != nil; pkt = c.ep.Read() {
			raw := append(make([]byte, offset), pkt.ToView().AsSlice()...)
			pkt.DecRef()
			if isOwn(raw[offset:]) {
				c.f.DeliverOwn(raw[offset:])
			} else if batch = append(batch, raw); len(batch) == maxBatch {
				break
			}
		}
		if len(batch) > 0 {
			c.f.Deliver(batch, offset)
		}
		for _, raw := range batch {
			for i := range raw {
				raw[i] = 0xee
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *client) receiveLoop() {
	var slab packet.Slab
	buf := make([]byte, 1<<17)
	for {
		slab.Reset(buf, 128)
		if err := c.f.Receive(&slab); err != nil {
			return
		}
		for i := range slab.Len() {
			raw, _ := slab.Packet(i)
			if len(raw) > 1280 {
				c.t.Errorf("received a packet of %d bytes, more than the MTU", len(raw))
			}
			c.recordICMP(raw)
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(raw)})
			number := ipv4.ProtocolNumber
			if raw[0]>>4 == 6 {
				number = ipv6.ProtocolNumber
			}
			c.ep.InjectInbound(number, pkt) // verifies all checksums
			pkt.DecRef()
		}
	}
}

func (c *client) recordICMP(raw []byte) {
	var p packet.Packet
	if c.icmp == nil || !p.Parse(raw) || p.Protocol != packet.ProtoICMP && p.Protocol != packet.ProtoICMPv6 {
		return
	}
	sum := uint64(0)
	if p.Src.Is6() {
		sum = packet.PseudoSum(p.Src, p.Dst, packet.ProtoICMPv6, len(p.Data))
	}
	if packet.Checksum(p.Data, sum) != 0 {
		c.t.Error("received an ICMP message with a wrong checksum")
	}
	quote := p.Data[8:]
	if len(quote) < packet.HeaderSize(p.Src)+4 {
		c.t.Error("received an ICMP error that quotes too few bytes")
		return
	}
	ports := quote[packet.HeaderSize(p.Src):]
	c.icmp <- quotedError{p.Data[0], p.Data[1], binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])}
}

// awaitPortUnreachable waits for a port-unreachable error about the datagrams of conn to
// target.
func (c *client) awaitPortUnreachable(conn *gonet.UDPConn, target netip.AddrPort) {
	c.t.Helper()
	want := quotedError{3, 3, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), target.Port()}
	if target.Addr().Is6() {
		want.typ, want.code = 1, 4
	}
	select {
	case got := <-c.icmp:
		if got != want {
			c.t.Errorf("%v: ICMP %+v, want %+v", target, got, want)
		}
	case <-time.After(patience):
		c.t.Errorf("%v: no ICMP error", target)
	}
}

func (c *client) full(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	protocol := ipv4.ProtocolNumber
	if a.Addr().Is6() {
		protocol = ipv6.ProtocolNumber
	}
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}, protocol
}

func (c *client) dialTCP(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addr, protocol := c.full(to)
	conn, err := gonet.DialContextTCP(ctx, c.stack, addr, protocol)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	c.t.Cleanup(func() { conn.Close() })
	return conn, nil
}

func (c *client) mustDialTCP(to netip.AddrPort) *gonet.TCPConn {
	c.t.Helper()
	conn, err := c.dialTCP(to)
	if err != nil {
		c.t.Fatal(err)
	}
	return conn
}

func (c *client) dialUDP(to netip.AddrPort) *gonet.UDPConn {
	c.t.Helper()
	return c.dialUDPFrom(nil, to)
}

func (c *client) dialUDPFrom(from *tcpip.FullAddress, to netip.AddrPort) *gonet.UDPConn {
	c.t.Helper()
	addr, protocol := c.full(to)
	conn, err := gonet.DialUDP(c.stack, from, &addr, protocol)
	if err != nil {
		c.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// targets returns the addresses by which a loopback server is a target behind the router.
func targets(port uint16) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.MustParseAddr("10.0.3.4"), port),
		netip.AddrPortFrom(netip.MustParseAddr("2600:1f18::4"), port),
		netip.AddrPortFrom(netip.MustParseAddr("fd7a:115c:a1e0:b1a:0:7:a00:304"), port), // 4via6 of 10.0.3.4
	}
}

// serveTCP serves on loopback of both families, on one port.
func serveTCP(t *testing.T, handle func(*net.TCPConn)) (port uint16) {
	t.Helper()
	for range 20 {
		ln4, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln4.Addr().(*net.TCPAddr).AddrPort()
		ln6, err := net.Listen("tcp", netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port()).String())
		if err != nil {
			ln4.Close()
			continue
		}
		for _, ln := range []net.Listener{ln4, ln6} {
			t.Cleanup(func() { ln.Close() })
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					go handle(c.(*net.TCPConn))
				}
			}()
		}
		return addr.Port()
	}
	t.Fatal("no port is free on both loopbacks")
	return 0
}

// listenUDP listens on loopback of both families, on one port.
func listenUDP(t *testing.T) (v4, v6 *net.UDPConn, port uint16) {
	t.Helper()
	for range 20 {
		a, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		port = a.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		b, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv6loopback, Port: int(port)})
		if err != nil {
			a.Close()
			continue
		}
		for _, c := range []*net.UDPConn{a, b} {
			c.SetDeadline(time.Now().Add(patience))
			t.Cleanup(func() { c.Close() })
		}
		return a, b, port
	}
	t.Fatal("no port is free on both loopbacks")
	return nil, nil, 0
}

func serveUDPEcho(t *testing.T) (port uint16) {
	v4, v6, port := listenUDP(t)
	for _, c := range []*net.UDPConn{v4, v6} {
		go func() {
			buf := make([]byte, 65535)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				c.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
	}
	return port
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	testwait.Until(t, what, func() error {
		if !cond() {
			return errors.New("the condition does not hold")
		}
		return nil
	})
}

// noFlows waits until no flow and no reservation is left.
func (c *client) noFlows() {
	c.t.Helper()
	defer func() {
		if c.t.Failed() {
			n := 0
			c.f.tables[TCP].walk(func(fl flow) {
				if n++; n < 5 {
					c.t.Logf("left: %s", describeStage(fl))
				}
			})
			c.t.Logf("left: %d TCP flows, %d reservations", n, c.f.limits.reserved)
		}
	}()
	waitFor(c.t, "all flows to be gone", func() bool {
		flows := c.f.Active().Total()
		c.f.limits.mu.Lock()
		defer c.f.limits.mu.Unlock()
		return flows+c.f.limits.reserved+len(c.f.limits.peers) == 0
	})
}

// describeStage returns where a flow of TCP is, for a failure.
func describeStage(fl flow) string {
	s := fl.(*streamFlow)
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("stage %d, task %d, fd %d, opened %v ago, %+v, %+v", s.stage.Load(), s.task.state.Load(), s.fd, time.Since(s.opened), s.key, s.conn.Stats())
}

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func (c *client) addAddress(a netip.Addr) {
	c.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpipAddr(a).WithPrefix(),
	}, stack.AddressProperties{})
}

// dialTCPFrom dials from a given port.
func (c *client) dialTCPFrom(port uint16, to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addr, protocol := c.full(to)
	conn, err := gonet.DialTCPWithBind(ctx, c.stack, tcpip.FullAddress{NIC: 1, Addr: tcpipAddr(client4), Port: port}, addr, protocol)
	if err == nil {
		conn.SetDeadline(time.Now().Add(patience))
	}
	return conn, err
}
