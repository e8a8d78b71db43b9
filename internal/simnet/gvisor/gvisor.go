// Package gvisor adapts gVisor's TCP to package simnet.
//
// gVisor has goroutines and timers. The adapter makes it a deterministic state machine:
//
//   - Each endpoint has a stack of its own, whose clock and random numbers are the
//     simulator's. Timers fire when the simulator calls Wake, one after the other, by time and
//     then by the order in which they were set.
//   - After each packet and timer, [stack.Stack.Pause] waits until the goroutines that process
//     segments have emptied their queues. Nothing runs between two calls of the simulator, and
//     at most one segment is processed at a time.
//
// testing/synctest cannot be used: gVisor parks its goroutines with a wait reason that synctest
// does not count as blocked, so synctest.Wait would not return.
package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/simnet"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Options select variants of gVisor's TCP. The zero value has the settings of the data path:
// SACK without RACK, and Reno.
type Options struct {
	CUBIC bool
	RACK  bool
}

// Subject returns gVisor's TCP.
func Subject(o Options) simnet.Subject {
	name := "gVisor"
	if o.CUBIC {
		name += ", CUBIC"
	}
	if o.RACK {
		name += ", RACK"
	}
	return simnet.Subject{Name: name, StaleWindow: true, New: func(c simnet.Config) simnet.Endpoint { return newEndpoint(c, o) }}
}

const nicID = 1

// endpoint is one end of a connection. Only the simulator's goroutine uses it, except for the
// fields of link and events.
type endpoint struct {
	config simnet.Config
	clock  *clock
	stack  *stack.Stack
	link   *link
	queue  *waiter.Queue // of conn
	conn   tcpip.Endpoint

	// The passive end's listener, until it has accepted a connection.
	listener      tcpip.Endpoint
	listenerQueue *waiter.Queue

	written, acked int64  // bytes of the application, and of these, those that the peer has
	nextAck        uint32 // the acknowledgement that would be for acked bytes
	synced         bool   // nextAck is known

	mu     sync.Mutex // callbacks of gVisor run in its goroutines
	events simnet.Events
}

func newEndpoint(c simnet.Config, o Options) simnet.Endpoint {
	source := &lockedSource{src: rand.NewPCG(c.Seed, 1)}
	e := &endpoint{config: c, clock: &clock{}, link: &link{mtu: uint32(c.MTU)}}
	e.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
		Clock:              e.clock,
		RandSource:         source,
		SecureRNG:          source,
	})
	sack := tcpip.TCPSACKEnabled(true)
	recovery := tcpip.TCPRecovery(0)
	if o.RACK {
		recovery = tcpip.TCPRACKLossDetection
	}
	control := tcpip.CongestionControlOption("reno")
	if o.CUBIC {
		control = "cubic"
	}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: c.ReceiveBuffer, Max: c.ReceiveBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 1, Default: c.SendBuffer, Max: c.SendBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &control, &receive, &send} {
		must(e.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option))
	}
	must(e.stack.CreateNIC(nicID, e.link))
	must(e.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol: e.network(), AddressWithPrefix: tcpip.AddrFromSlice(c.Local.Addr().AsSlice()).WithPrefix(),
	}, stack.AddressProperties{}))
	e.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID}})
	if c.Active {
		e.conn, e.queue = e.newConn()
		e.subscribe()
		if err := e.conn.Connect(full(c.Remote)); err != nil {
			if _, started := err.(*tcpip.ErrConnectStarted); !started {
				must(err)
			}
		}
	} else {
		e.listener, e.listenerQueue = e.newConn()
		must(e.listener.Listen(16))
	}
	e.settle()
	return e
}

// newConn returns an endpoint of the stack, bound to the local address.
func (e *endpoint) newConn() (tcpip.Endpoint, *waiter.Queue) {
	q := new(waiter.Queue)
	ep, err := e.stack.NewEndpoint(tcp.ProtocolNumber, e.network(), q)
	must(err)
	must(ep.Bind(full(e.config.Local)))
	return ep, q
}

func (e *endpoint) network() tcpip.NetworkProtocolNumber {
	if e.config.Local.Addr().Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// must panics: the adapter makes no call that can fail for another reason than its own error.
func must(err tcpip.Error) {
	if err != nil {
		panic(err.String())
	}
}

const (
	readable = waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr
	writable = waiter.WritableEvents | waiter.EventHUp | waiter.EventErr
)

// subscribe notes gVisor's notifications from now on.
func (e *endpoint) subscribe() {
	entry := waiter.NewFunctionEntry(readable|writable, func(mask waiter.EventMask) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.note(mask)
	})
	e.queue.EventRegister(&entry)
}

// note needs mu.
func (e *endpoint) note(mask waiter.EventMask) {
	if mask&readable != 0 {
		e.events |= simnet.Readable
	}
	if mask&writable != 0 {
		e.events |= simnet.Writable
	}
}

// settle waits until gVisor's goroutines have nothing to do, then accepts a new connection.
func (e *endpoint) settle() {
	e.stack.Pause()
	e.stack.Resume()
	if e.listener == nil {
		return
	}
	conn, queue, err := e.listener.Accept(nil)
	if err != nil {
		return // none
	}
	e.conn, e.queue = conn, queue
	e.subscribe()
	e.mu.Lock()
	e.note(conn.Readiness(readable | writable)) // before the subscription
	e.mu.Unlock()
	e.closeListener()
	e.settle()
}

func (e *endpoint) closeListener() {
	e.listener.Close()
	e.listener = nil
}

func (e *endpoint) Deliver(now time.Duration, packet []byte) {
	e.clock.set(now)
	e.observe(packet)
	number := ipv4.ProtocolNumber
	if packet[0]>>4 == 6 {
		number = ipv6.ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	e.link.dispatcher.DeliverNetworkPacket(number, p)
	p.DecRef()
	e.settle()
}

// observe follows the acknowledgements, since gVisor does not report the size of its send
// queue.
func (e *endpoint) observe(packet []byte) {
	s, err := simnet.Parse(packet)
	if err != nil || s.Flags&(simnet.ACK|simnet.RST) != simnet.ACK || s.Src != e.config.Remote {
		return
	}
	if !e.synced {
		// The first acknowledgement is for the SYN, and perhaps for some bytes of the active end.
		e.synced, e.nextAck = true, e.link.iss+1
	}
	if d := int32(s.Ack - e.nextAck); d > 0 {
		e.nextAck += uint32(d)
		e.acked = min(e.acked+int64(d), e.written)
	}
}

func (e *endpoint) Wake(now time.Duration) {
	for {
		f := e.clock.next(now)
		if f == nil {
			break
		}
		f()
		e.settle()
	}
	e.clock.set(now)
}

func (e *endpoint) Deadline() (time.Duration, bool) { return e.clock.deadline() }

func (e *endpoint) Packets() [][]byte { return e.link.take() }

func (e *endpoint) Events() simnet.Events {
	e.mu.Lock()
	defer e.mu.Unlock()
	events := e.events
	e.events = 0
	return events
}

func (e *endpoint) Read(now time.Duration, b []byte) (int, error) {
	e.clock.set(now)
	if e.conn == nil {
		return 0, simnet.ErrWouldBlock
	}
	w := tcpip.SliceWriter(b)
	result, err := e.conn.Read(&w, tcpip.ReadOptions{})
	e.settle()
	switch err.(type) {
	case nil:
		return result.Count, nil
	case *tcpip.ErrWouldBlock:
		return 0, simnet.ErrWouldBlock
	case *tcpip.ErrClosedForReceive:
		return 0, io.EOF
	default:
		return 0, fmt.Errorf("%w: %v", simnet.ErrReset, err)
	}
}

func (e *endpoint) Write(now time.Duration, b []byte) (n int, err error) {
	e.clock.set(now)
	if e.conn == nil {
		return 0, simnet.ErrWouldBlock
	}
	for n < len(b) {
		m, err := e.conn.Write(bytes.NewReader(b[n:]), tcpip.WriteOptions{})
		e.settle()
		n += int(m)
		e.written += m
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return n, simnet.ErrWouldBlock
		default:
			return n, fmt.Errorf("%w: %v", simnet.ErrReset, err)
		}
	}
	return n, nil
}

func (e *endpoint) CloseWrite(now time.Duration) {
	e.clock.set(now)
	_ = e.conn.Shutdown(tcpip.ShutdownWrite) // an error means that the connection has ended
	e.settle()
}

func (e *endpoint) Abort(now time.Duration) {
	e.clock.set(now)
	if e.listener != nil {
		e.closeListener()
	}
	if e.conn != nil {
		e.conn.Abort()
		e.conn.Close()
	}
	e.settle()
}

func (e *endpoint) Close(now time.Duration) {
	e.clock.set(now)
	e.conn.Close()
	e.settle()
}

func (e *endpoint) Usage() simnet.Usage {
	u := simnet.Usage{Connections: len(e.stack.RegisteredEndpoints()) + len(e.stack.CleanupEndpoints())}
	if u.Connections == 0 || e.conn == nil {
		return u
	}
	u.Buffered = int(e.written - e.acked)
	if n, err := e.conn.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
		u.Buffered += n
	}
	return u
}

// String returns the states of the stack's endpoints.
func (e *endpoint) String() string {
	var states []string
	for _, ep := range slices.Concat(e.stack.RegisteredEndpoints(), e.stack.CleanupEndpoints()) {
		if ep, ok := ep.(*tcp.Endpoint); ok {
			states = append(states, ep.EndpointState().String())
		}
	}
	slices.Sort(states) // they come from maps
	return strings.Join(slices.Compact(states), ", ")
}

// Stop ends the stack's goroutines.
func (e *endpoint) Stop() error {
	e.stack.Close()
	e.stack.Wait()
	if n := len(e.stack.RegisteredEndpoints()); n > 0 {
		return errors.New("endpoints remain after the stack's end")
	}
	return nil
}

// link is the network interface of a stack: a list of packets.
type link struct {
	mtu        uint32
	dispatcher stack.NetworkDispatcher
	mu         sync.Mutex
	packets    [][]byte
	iss        uint32 // of the last SYN
}

func (l *link) take() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.packets
	l.packets = nil
	return p
}

func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range list.AsSlice() {
		view := p.ToView()
		packet := slices.Clone(view.AsSlice())
		view.Release()
		l.packets = append(l.packets, packet)
		if s, err := simnet.Parse(packet); err == nil && s.Flags&simnet.SYN != 0 {
			l.iss = s.Seq
		}
	}
	return list.Len(), nil
}

func (l *link) MTU() uint32                                  { return l.mtu }
func (l *link) SetMTU(mtu uint32)                            { l.mtu = mtu }
func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return 0 } // the stack has all checksums to do
func (l *link) Attach(d stack.NetworkDispatcher)             { l.dispatcher = d }
func (l *link) IsAttached() bool                             { return l.dispatcher != nil }
func (l *link) Wait()                                        {}
func (l *link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *link) Close()                                       {}
func (l *link) SetOnCloseAction(func())                      {}

// lockedSource is a seeded source of both kinds of random numbers in a stack, a [rand.Source]
// of the old package and a reader.
type lockedSource struct {
	mu  sync.Mutex
	src *rand.PCG
}

func (s *lockedSource) Seed(int64) {}

func (s *lockedSource) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Uint64()
}

func (s *lockedSource) Int63() int64 { return int64(s.Uint64() >> 1) }

func (s *lockedSource) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.Uint64())
	}
	return len(b), nil
}
