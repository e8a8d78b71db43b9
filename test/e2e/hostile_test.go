package e2e

import (
	"bytes"
	"context"
	wire "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// The wire format of the hand-over, implemented independently, as an attacker would.
const (
	handoverPort  = 9003
	msgState      = 1
	msgRelayed    = 2
	msgUnknown    = 3
	msgForClient  = 4
	msgTaken      = 5
	msgWait       = 6
	lastKind      = 6
	hostileRoute  = "10.0.5.0/24"
	hostileHost   = "10.0.5.7"
	sessionSecret = "SECRET-OF-THE-SESSION"
	forgery       = "FORGED-BY-THE-HOSTILE-ROUTER"
)

// hostile is a real tailnet node with the routers' tag, with a program that implements their
// protocol.
type hostile struct {
	t      *testing.T
	w      *world
	addr   netip.Addr
	conn   net.PacketConn
	client netip.Addr   // whose flows it attacks
	to     []netip.Addr // the routers

	mu       sync.Mutex
	received [][]byte
	sent     atomic.Int64
}

// startHostile joins the node to the tailnet, with a route unless it is "".
func (w *world) startHostile(route string) *hostile {
	t := w.t
	t.Helper()
	host := w.net.Host("hostile")
	w.internet.Plug(host, "eth0", "192.168.77.66/24")
	host.Sysctl("net.ipv4.ip_forward", "1")
	dir := t.TempDir()
	socket := filepath.Join(dir, "hostile.sock")
	cmd := host.Command(context.WithoutCancel(t.Context()), binary("tailscaled"),
		"--statedir="+dir, "--socket="+socket, "--tun=tailscale0", "--port=41641")
	cmd.Env = append(os.Environ(), tailnettest.Env()...)
	start(t, "hostile", cmd)
	c := &client{w: w, socket: socket, process: &process{t: t}}
	args := []string{"up", "--login-server=" + w.control.ControlURL(), "--auth-key=" + w.routerKey.Reveal(),
		"--accept-routes", "--accept-dns=false", "--hostname=hostile", "--timeout=30s"}
	if route != "" {
		args = append(args, "--advertise-routes="+route)
	}
	c.tailscale(args...)
	h := &hostile{t: t, w: w}
	w.await("the hostile node to be online", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "hostile")
		if !ok || !n.Online || route != "" && len(n.Primary) == 0 {
			return false
		}
		h.addr = n.IPs[0]
		return true
	})
	h.conn = must(host.ListenPacket("udp", netip.AddrPortFrom(h.addr, handoverPort).String()))
	t.Cleanup(func() { h.conn.Close() })
	h.client = w.addressOf("laptop")
	for _, name := range []string{"old", "next"} {
		h.to = append(h.to, w.addressOf(name))
	}
	go h.receive()
	return h
}

func (w *world) addressOf(name string) netip.Addr {
	w.t.Helper()
	n, ok := tailnettest.Find(must(w.control.Nodes(w.t.Context())), name)
	if !ok {
		w.t.Fatalf("control has no node %s", name)
	}
	return n.IPs[0]
}

func (h *hostile) receive() {
	buf := make([]byte, 65535)
	for {
		n, _, err := h.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		h.mu.Lock()
		if len(h.received) < 10_000 {
			h.received = append(h.received, bytes.Clone(buf[:n]))
		}
		h.mu.Unlock()
	}
}

func (h *hostile) send(to netip.Addr, message []byte) {
	h.sent.Add(1)
	h.conn.WriteTo(message, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, handoverPort)))
}

func (h *hostile) sendAll(message []byte) {
	for _, to := range h.to {
		h.send(to, message)
	}
}

func claimOf(draining, gone bool, routes ...string) []byte {
	b, _ := json.Marshal(map[string]any{"routes": routes, "healthy": true, "relays": true, "confirms": true,
		"draining": draining, "gone": gone, "answer": true})
	return append([]byte{msgState}, b...)
}

// udpPacket and tcpPacket return packets as clients send them, with valid checksums.
func udpPacket(src, dst netip.AddrPort, payload string) []byte {
	b := make([]byte, 28+len(payload))
	putIPv4(b, src.Addr(), dst.Addr(), 17)
	wire.BigEndian.PutUint16(b[20:], src.Port())
	wire.BigEndian.PutUint16(b[22:], dst.Port())
	wire.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	copy(b[28:], payload)
	return b // UDP over IPv4 does not need a checksum
}

func tcpPacket(src, dst netip.AddrPort, seq, ack uint32, flags byte, payload string) []byte {
	b := make([]byte, 40+len(payload))
	putIPv4(b, src.Addr(), dst.Addr(), 6)
	t := b[20:]
	wire.BigEndian.PutUint16(t, src.Port())
	wire.BigEndian.PutUint16(t[2:], dst.Port())
	wire.BigEndian.PutUint32(t[4:], seq)
	wire.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, flags
	wire.BigEndian.PutUint16(t[14:], 65535)
	copy(t[20:], payload)
	pseudo := append(append([]byte{}, b[12:20]...), 0, 6, byte(len(t)>>8), byte(len(t)))
	wire.BigEndian.PutUint16(t[16:], internetChecksum(append(pseudo, t...)))
	return b
}

func putIPv4(b []byte, src, dst netip.Addr, protocol byte) {
	b[0], b[8], b[9] = 0x45, 64, protocol
	wire.BigEndian.PutUint16(b[2:], uint16(len(b)))
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	wire.BigEndian.PutUint16(b[10:], internetChecksum(b[:20]))
}

func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(wire.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// canaries are listeners that packets of the hostile node must not reach.
type canaries struct {
	mu      sync.Mutex
	reached []string
}

func (c *canaries) reach(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached = append(c.reached, fmt.Sprintf(format, args...))
}

// watch listens for UDP and TCP at an address of a router's namespace or the VPC.
func (c *canaries) watch(t *testing.T, listen func(network, address string) (net.Listener, error),
	listenPacket func(network, address string) (net.PacketConn, error), address string) {
	t.Helper()
	ln := must(listen("tcp", address))
	pc := must(listenPacket("udp", address))
	t.Cleanup(func() { ln.Close(); pc.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.reach("TCP from %s reached %s", conn.RemoteAddr(), address)
			conn.Close()
		}
	}()
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			c.reach("UDP from %s reached %s: %.40q", from, address, buf[:n])
		}
	}()
}

// session is a client's long connection with a server of the VPC. Every message contains a
// secret, and both ends check every byte.
type session struct {
	port   uint16 // of the client
	rounds atomic.Int64
	failed atomic.Pointer[string]
	done   chan struct{}
	cancel context.CancelFunc
}

func (s *session) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.failed.CompareAndSwap(nil, &text)
}

const sessionPort = "1011"

func (w *world) startSession() *session {
	t := w.t
	t.Helper()
	s := &session{done: make(chan struct{})}
	ln := must(w.vpc.Listen("tcp", net.JoinHostPort(dbHost, sessionPort)))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64)
				for i := 0; ; i++ {
					want := fmt.Sprintf("%-64s", fmt.Sprint(sessionSecret, " question ", i))
					if _, err := io.ReadFull(conn, buf); err != nil {
						return
					}
					if string(buf) != want {
						s.fail("the server got %q, want %q", buf, want)
					}
					fmt.Fprintf(conn, "%-64s", fmt.Sprint(sessionSecret, " answer ", i))
				}
			}()
		}
	}()
	conn := must(w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, sessionPort)))
	s.port = uint16(conn.LocalAddr().(*net.TCPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		defer conn.Close()
		buf := make([]byte, 64)
		for i := 0; ctx.Err() == nil; i++ {
			conn.SetDeadline(time.Now().Add(testwait.Limit()))
			fmt.Fprintf(conn, "%-64s", fmt.Sprint(sessionSecret, " question ", i))
			if _, err := io.ReadFull(conn, buf); err != nil {
				s.fail("after %d rounds: %v", i, err)
				return
			}
			if want := fmt.Sprintf("%-64s", fmt.Sprint(sessionSecret, " answer ", i)); string(buf) != want {
				s.fail("the client got %q, want %q", buf, want)
			}
			s.rounds.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	t.Cleanup(cancel)
	return s
}

// hostileMoves is the number of moves that the generator draws.
const hostileMoves = 2000

// TestHostileRouter drains a router while a hostile node with the same tag makes false
// claims, replays and floods messages, relays and returns packets of others, and exits in
// the middle. It never reaches a denied address, another client's data or another router's
// routes. HOSTILE_SEED replays a run.
func TestHostileRouter(t *testing.T) {
	for name, route := range map[string]string{"no route": "", "a small route": hostileRoute} {
		t.Run(name, func(t *testing.T) { testHostileRouter(t, route) })
	}
}

func testHostileRouter(t *testing.T, route string) {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("HOSTILE_SEED"); v != "" {
		seed = must(strconv.ParseUint(v, 10, 64))
	}
	t.Logf("HOSTILE_SEED=%d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))

	w, old, next := twoRouters(t, time.Second, map[string]string{"ROUTER_DRAIN_TIMEOUT": "20s"}, func(w *world) secret.String { return w.routerKey })
	w.vpc.Address("lo", hostileHost+"/32")
	var c canaries
	for _, r := range []*router{old, next} {
		c.watch(t, r.host.Listen, r.host.ListenPacket, metadataIP+":8080")
	}
	for _, address := range []string{dbHost + ":2222", secondHost + ":2222"} {
		c.watch(t, w.vpc.Listen, w.vpc.ListenPacket, address)
	}
	h := w.startHostile(route)
	s := w.startSession()
	from := netip.AddrPortFrom(h.client, s.port)
	db := netip.MustParseAddrPort(net.JoinHostPort(dbHost, sessionPort))
	forbidden := []netip.AddrPort{
		netip.MustParseAddrPort(metadataIP + ":8080"), netip.MustParseAddrPort(dbHost + ":2222"), netip.MustParseAddrPort(secondHost + ":2222"),
		netip.MustParseAddrPort(routerVPC + ":9002"), netip.MustParseAddrPort("10.0.1.6:9002"), db,
	}
	anyForbidden := func() netip.AddrPort { return forbidden[dice.IntN(len(forbidden))] }
	forged := func() []byte {
		dst := anyForbidden()
		switch dice.IntN(4) {
		case 0:
			return udpPacket(from, dst, forgery)
		case 1:
			return tcpPacket(from, dst, dice.Uint32(), dice.Uint32(), 2, "") // SYN
		case 2:
			return tcpPacket(from, dst, dice.Uint32(), dice.Uint32(), 0x18, forgery)
		}
		return tcpPacket(from, db, dice.Uint32(), dice.Uint32(), 4, "") // RST for the session
	}
	numbered := func(kind byte, body []byte) []byte {
		return wire.BigEndian.AppendUint64(append([]byte{kind}, body...), dice.Uint64N(1<<20))
	}
	var history [][]byte
	move := func() []byte {
		switch dice.IntN(8) {
		case 0:
			return claimOf(dice.IntN(2) == 0, dice.IntN(6) == 0, "10.0.0.0/16", "10.8.0.0/16", "0.0.0.0/0", "169.254.0.0/16")
		case 1:
			return numbered(msgRelayed, forged())
		case 2:
			return append([]byte{msgRelayed}, forged()...)
		case 3:
			return append([]byte{msgUnknown}, forged()...)
		case 4:
			return numbered(msgUnknown, forged())
		case 5:
			return append([]byte{msgForClient}, tcpPacket(db, from, dice.Uint32(), dice.Uint32(), 0x18, forgery)...)
		case 6:
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.received) > 0 { // back to its sender, as another kind
				m := bytes.Clone(h.received[dice.IntN(len(h.received))])
				m[0] = byte(1 + dice.IntN(lastKind))
				return m
			}
		case 7:
			if len(history) > 0 {
				m := bytes.Clone(history[dice.IntN(len(history))])
				m[dice.IntN(len(m))] ^= byte(1 << dice.IntN(8))
				return m[:1+dice.IntN(len(m))]
			}
		}
		return numbered([]byte{msgTaken, msgWait}[dice.IntN(2)], nil)
	}
	play := func(moves int) {
		for i := range moves {
			m := move()
			if len(history) < 1000 {
				history = append(history, m)
			}
			h.sendAll(m)
			if i%20 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}

	// First while both routers are healthy, then as a false helper of a drain.
	play(hostileMoves / 4)
	h.sendAll(claimOf(false, false, "10.0.0.0/16"))
	old.cmd.Process.Signal(syscall.SIGTERM)
	h.sendAll(claimOf(false, false, "10.0.0.0/16"))
	play(hostileMoves / 4)
	old.awaitLog(`"msg":"routes handed over"`)
	w.awaitPrimary("next")
	play(hostileMoves / 4)
	// Then as a draining router that exits without a message.
	h.sendAll(claimOf(true, false, "10.0.0.0/16"))
	play(hostileMoves / 4)
	before := s.rounds.Load()
	time.Sleep(2 * time.Second)
	if s.rounds.Load() == before {
		t.Error("the client's session makes no progress")
	}
	if err := echoUDP(t.Context(), w, net.JoinHostPort(dbHost, "7"), 500); err != nil {
		t.Errorf("a new flow of UDP during the drain: %v", err)
	}
	s.cancel()
	<-s.done
	if why := s.failed.Load(); why != nil {
		t.Errorf("the client's session: %s", *why)
	}
	if code := old.wait(); code != 0 {
		t.Errorf("the old router ended with %d", code)
	}
	c.mu.Lock()
	for _, what := range c.reached[:min(len(c.reached), 10)] {
		t.Error(what)
	}
	if n := len(c.reached); n > 10 {
		t.Errorf("and %d more", n-10)
	}
	c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	packets := 0
	for _, m := range h.received {
		if m[0] != msgState {
			packets++
		}
		if strings.Contains(string(m), sessionSecret) {
			t.Fatalf("the hostile node got a packet of the client's session: kind %d, %d bytes", m[0], len(m))
		}
	}
	t.Logf("%d messages sent, %d received, %d of them with packets; %d rounds of the session", h.sent.Load(), len(h.received), packets, s.rounds.Load())
	if _, body := next.get("/metrics"); !strings.Contains(body, `router_handover_refused_total{reason="no_route"}`) {
		t.Error("refused messages are not counted")
	}
}
