package netnstest

import (
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WireOptions are the properties of a [Wire].
type WireOptions struct {
	FromHost, ToHost DirectionOptions
}

// Symmetric returns options with o in both directions, with different seeds. The delay is
// one way, so the round-trip time is twice as long.
func Symmetric(o DirectionOptions) WireOptions {
	w := WireOptions{FromHost: o, ToHost: o}
	w.ToHost.Seed += 1 << 32
	return w
}

func (o WireOptions) check() error {
	if err := o.FromHost.check(); err != nil {
		return fmt.Errorf("from the host: %w", err)
	}
	if err := o.ToHost.check(); err != nil {
		return fmt.Errorf("to the host: %w", err)
	}
	return nil
}

// WireStats counts the frames of a [Wire].
type WireStats struct {
	FromHost, ToHost DirectionStats
	// Missed counts frames that the kernel dropped because this process was too slow to
	// read or write them. They are not part of the options, so a measurement with many of
	// them is invalid.
	Missed int64
}

// Wire is a long line between a host and a switch: it delays, loses and reorders Ethernet
// frames according to its options. It replaces netem, which many kernels lack.
//
// The line is a namespace with one veth to each side. For each direction a goroutine reads
// frames from a packet socket on one veth, holds them in a direction, and writes them to
// the other when they are due. Under load, frames are up to a few milliseconds late: the
// goroutines compete with all other processes for the processors.
type Wire struct {
	fromHost, toHost *lane
	wg               sync.WaitGroup
}

// PlugOver connects a host with the switch, as Plug does, over a wire. Checksum and
// segmentation offloads of the interface are off, so that each frame is a whole packet.
// It fails the test if options are invalid.
func (s *Switch) PlugOver(h *Host, ifname string, o WireOptions, addresses ...string) *Wire {
	h.t.Helper()
	if err := o.check(); err != nil {
		h.t.Fatalf("plugging in a wire: %v", err)
	}
	port := s.newPort()
	line := s.n.Host("wire-" + port)
	// The namespace has no packets of its own.
	line.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	line.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	ip(h.t, "link", "add", "host", "netns", line.ns, "type", "veth", "peer", "name", ifname, "netns", h.ns)
	s.removeAtEnd(h, ifname)
	ip(h.t, "link", "add", "switch", "netns", line.ns, "type", "veth", "peer", "name", port, "netns", s.host.ns)
	h.disableOffloads(ifname)
	s.host.disableOffloads(port)
	line.disableOffloads("host")
	line.disableOffloads("switch")

	w := &Wire{fromHost: newLane(o.FromHost), toHost: newLane(o.ToHost)}
	if err := line.Do(w.open); err != nil {
		w.closeFiles()
		h.t.Fatalf("plugging in a wire: %v", err)
	}
	w.wg.Go(w.fromHost.run)
	w.wg.Go(w.toHost.run)
	s.n.t.Cleanup(w.close)

	line.IP("link", "set", "host", "up")
	line.IP("link", "set", "switch", "up")
	s.enable(port)
	h.configure(ifname, addresses)
	return w
}

// SetOptions changes the options of frames that arrive from now on. Frames on the wire keep
// their times of arrival, so that later ones overtake them if the path gets shorter. The
// random sequences of both directions start again from their seeds.
func (w *Wire) SetOptions(o WireOptions) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("changing a wire: %w", err)
	}
	w.fromHost.set(o.FromHost)
	w.toHost.set(o.ToHost)
	return nil
}

// Stats returns the counts since the wire was plugged in.
func (w *Wire) Stats() (s WireStats) {
	s.ToHost = w.toHost.stats(&s.Missed)
	s.FromHost = w.fromHost.stats(&s.Missed)
	return s
}

// open creates the packet sockets, in the namespace of the line.
func (w *Wire) open() (err error) {
	if w.fromHost.in, err = packetSocket("host"); err != nil {
		return err
	}
	if w.toHost.in, err = packetSocket("switch"); err != nil {
		return err
	}
	w.fromHost.out, w.toHost.out = w.toHost.in, w.fromHost.in
	for _, l := range []*lane{w.fromHost, w.toHost} {
		if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return fmt.Errorf("creating an eventfd: %w", err)
		}
	}
	return nil
}

func (w *Wire) close() {
	w.fromHost.stop()
	w.toHost.stop()
	w.wg.Wait()
	w.closeFiles()
}

func (w *Wire) closeFiles() {
	for _, l := range []*lane{w.fromHost, w.toHost} {
		l.mu.Lock()
		for _, fd := range []int{l.in, l.wake} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
		l.in, l.wake = -1, -1
		l.mu.Unlock()
	}
}

// packetSocket opens a socket that receives the frames that arrive at an interface.
func packetSocket(ifname string) (fd int, err error) {
	const everything = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
	req, err := unix.NewIfreq(ifname)
	if err != nil {
		return -1, err
	}
	// Protocol 0: no frame arrives before the socket is bound to its interface.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("opening a packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd, err = -1, fmt.Errorf("preparing a packet socket of %s: %w", ifname, err)
		}
	}()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return fd, err
	}
	// Room for the frames that arrive while other processes have the processors.
	const room = 16 << 20
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1}, // frames of the other lane
		{unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fd, err
		}
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: int(req.Uint32())})
}

// lane carries the frames of one direction.
type lane struct {
	in, out, wake int // file descriptors: in and wake are the lane's own; -1: closed
	start         time.Time

	mu     sync.Mutex
	d      *direction
	closed bool
	missed int64
}

func newLane(o DirectionOptions) *lane {
	return &lane{in: -1, out: -1, wake: -1, start: time.Now(), d: newDirection(o)}
}

func (l *lane) set(o DirectionOptions) {
	l.mu.Lock()
	l.d.set(o)
	l.mu.Unlock()
}

func (l *lane) stop() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (l *lane) stats(missed *int64) DirectionStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.in >= 0 {
		// Reading the kernel's counters resets them.
		if s, err := unix.GetsockoptTpacketStats(l.in, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			l.missed += int64(s.Drops)
		}
	}
	*missed += l.missed
	return l.d.stats
}

// run carries frames until the lane is stopped. The lock is free while it waits.
func (l *lane) run() {
	in, out := newFrames(), newFrames()
	wait := []unix.PollFd{{Fd: int32(l.in), Events: unix.POLLIN}, {Fd: int32(l.wake), Events: unix.POLLIN}}
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return
		}
		l.receive(in)
		l.send(out)
		var timeout *unix.Timespec // nil: until a frame arrives
		if due, ok := l.d.next(); ok {
			t := unix.NsecToTimespec(int64(max(0, due-time.Since(l.start))))
			timeout = &t
		}
		l.mu.Unlock()
		unix.Ppoll(wait, timeout, nil) // an error is an interruption by a signal
	}
}

// receive reads one batch. More frames end the next wait at once.
func (l *lane) receive(in *frames) {
	n, _ := in.call(unix.SYS_RECVMMSG, l.in, batch) // an error: there is no frame
	now := time.Since(l.start)
	for i := range n {
		l.d.offer(now, in.buffers[i][:in.headers[i].length])
		in.vectors[i].SetLen(maxFrame)
	}
}

// send writes the frames that are due.
func (l *lane) send(out *frames) {
	for {
		n, now := 0, time.Since(l.start)
		for ; n < batch; n++ {
			f, ok := l.d.take(now)
			if !ok {
				break
			}
			out.buffers[n] = f
			out.vectors[n].Base = &f[0]
			out.vectors[n].SetLen(len(f))
		}
		if n == 0 {
			return
		}
		if sent, err := out.call(unix.SYS_SENDMMSG, l.out, n); err != nil || sent < n {
			// The peer is down, or its queue is full. As on a line, frames are lost.
			l.missed += int64(n - max(0, sent))
		}
		for _, f := range out.buffers[:n] {
			l.d.giveBack(f)
		}
	}
}

// batch is the largest number of frames that one system call reads or writes.
const batch = 64

// frames are the arguments of recvmmsg and sendmmsg.
type frames struct {
	headers [batch]messageHeader
	vectors [batch]unix.Iovec
	buffers [batch][]byte
}

// messageHeader is a struct mmsghdr.
type messageHeader struct {
	unix.Msghdr
	length uint32
}

func newFrames() *frames {
	f := &frames{}
	for i := range f.headers {
		f.buffers[i] = make([]byte, maxFrame)
		f.vectors[i].Base = &f.buffers[i][0]
		f.vectors[i].SetLen(maxFrame)
		f.headers[i].Iov = &f.vectors[i]
		f.headers[i].SetIovlen(1)
	}
	return f
}

// call makes a system call for the first n frames, and returns the number of those done.
func (f *frames) call(number uintptr, fd, n int) (done int, err error) {
	for {
		r, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&f.headers[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			return int(r), nil
		case !errors.Is(errno, unix.EINTR):
			return 0, errno
		}
	}
}

// disableOffloads makes the kernel compute checksums and cut segments before a packet
// reaches the interface.
func (h *Host) disableOffloads(ifname string) {
	h.t.Helper()
	// TCP segmentation ends with the checksums that it needs. UDP segmentation (UDP_SEGMENT)
	// has no flag among the commands below, and some kernels keep it without checksums.
	h.IP("link", "set", ifname, "gso_max_segs", "1")
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, command := range []uint32{
			unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO,
		} {
			if err := ethtool(fd, ifname, command, 0); err != nil {
				return fmt.Errorf("ethtool command %#x: %w", command, err)
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatalf("%s: disabling the offloads of %s: %v", h.Name, ifname, err)
	}
}

// ethtool sets a flag of an interface.
func ethtool(fd int, ifname string, command, value uint32) error {
	argument := struct{ command, value uint32 }{command, value}
	request := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&argument)}
	copy(request.name[:len(request.name)-1], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
