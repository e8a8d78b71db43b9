package simnet

import (
	"errors"
	"net/netip"
	"time"
)

// Subject is a TCP implementation.
type Subject struct {
	Name string
	// New returns one end of a connection. The active end sends its SYN as soon as it is
	// asked for packets. It must not keep state outside of the endpoint: runs are concurrent.
	New func(Config) Endpoint
	// StaleWindow is set for an implementation that takes the window from segments older than
	// the last (without SND.WL1 and SND.WL2 of RFC 9293), and may thus exceed the window a
	// little. The receiver drops those bytes.
	StaleWindow bool
}

// Config describes one end of a connection.
type Config struct {
	Active        bool // connects; the other end accepts
	Local, Remote netip.AddrPort
	MTU           int    // of the end's own interface; the path may have a smaller one
	SendBuffer    int    // bytes that the endpoint buffers for the network
	ReceiveBuffer int    // bytes that the endpoint buffers for the application
	Seed          uint64 // of all its random numbers, such as sequence numbers
}

// Budget returns the number of bytes that the endpoint may hold: its two buffers, since more
// than a receive buffer is outside of the window, and one packet for each write or segment
// that is accepted as a whole.
func (c Config) Budget() int { return c.SendBuffer + c.ReceiveBuffer + 2*max(c.MTU, 1<<16) }

// Endpoint is one end of a TCP connection, without a thread, a clock or a network of its own:
// segments, bytes and time in; segments and bytes out. Times are measured from the start of
// the simulation. A pure state machine implements it directly; package gvisor next to this one
// shows how to adapt one that has goroutines and timers. An endpoint with a method String
// describes its state in failures.
//
// The simulator calls one method at a time, with times that never decrease. After each call
// that has a time it takes the packets and notifications, then asks for the deadline and usage.
type Endpoint interface {
	// Deliver processes an IP packet from the network, which the endpoint may keep. It may be
	// corrupt, a duplicate, an ICMP error, or addressed to another endpoint. After its end the
	// endpoint answers as a host without the connection does; see [ResetFor].
	Deliver(now time.Duration, packet []byte)
	// Wake runs the timers that are due. Calls that are too early or not needed have no effect.
	Wake(now time.Duration)
	// Deadline returns when Wake has to be called, unless something happens before. ok is
	// false if no timer is running.
	Deadline() (at time.Duration, ok bool)
	// Packets returns the IP packets to send. The caller owns them.
	Packets() [][]byte
	// Events returns the notifications since the last call. The application acts only on
	// these: it reads (or writes) from a notification until [ErrWouldBlock], and not again
	// before the next. An end or reset is both readable and writable, and so is an endpoint
	// whose connection is established writable.
	Events() Events

	// Read returns received bytes, io.EOF after the last byte if the peer has closed,
	// ErrWouldBlock if there are none, or another error if the connection was reset.
	Read(now time.Duration, b []byte) (int, error)
	// Write buffers bytes for the peer. It returns fewer than len(b) with ErrWouldBlock if
	// there is no room.
	Write(now time.Duration, b []byte) (int, error)
	// CloseWrite ends the stream of written bytes.
	CloseWrite(now time.Duration)
	// Abort ends the connection with a reset. The application calls no other method after it.
	Abort(now time.Duration)
	// Close releases the endpoint on behalf of the application, which calls it once, after it
	// has read the end and closed its own stream, or after an error. The endpoint continues
	// to retransmit, and to wait for late segments.
	Close(now time.Duration)

	// Usage returns the endpoint's resources.
	Usage() Usage
}

// Stopper is implemented by endpoints with resources that do not end in virtual time, such as
// goroutines. Stop releases them at the end of a run; it returns an error if any remain.
type Stopper interface{ Stop() error }

// Events is a set of notifications.
type Events uint8

// The notifications of an endpoint.
const (
	Readable Events = 1 << iota
	Writable
)

// String names the notifications.
func (e Events) String() string {
	return [...]string{"none", "readable", "writable", "readable and writable"}[e&3]
}

// Usage is the resources that an endpoint holds. All are zero once its connection has ended
// and the application has closed it, after TIME-WAIT at the latest.
type Usage struct {
	Buffered    int // bytes to send, to read, or out of order
	Connections int // connections that are not gone, in any state
}

// Errors that endpoints return.
var (
	ErrWouldBlock = errors.New("operation would block")
	ErrReset      = errors.New("connection reset")
)
