// Package target holds the servers of the VPC behind a router. They count the bytes and
// datagrams that arrive.
package target

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The services, by port. TCP ones listen on every address.
const (
	EchoPort   = 7    // TCP and UDP: echoes
	DNSPort    = 53   // UDP: answers every query with an address; names below metered as often as AWS
	SinkPort   = 5001 // TCP: reads zeros to EOF or a byte [Last], answers with the number of bytes
	SourcePort = 5002 // TCP: sends until the client closes
	HangupPort = 5003 // TCP: sends a byte and closes first
	FloodPort  = 5004 // UDP: counts datagrams, and sends floods on request
	tallyPort  = 5005 // TCP, not through the router: returns the counts of FloodPort
	FilePort   = 5006 // TCP: sends as many bytes as [AskFile] asks for, and closes
)

// Last may end a stream to [SinkPort] in place of EOF, since tailscaled's HTTP proxy does not pass EOF on: it ends both
// directions.
const Last = 1

// Chunk is the size of one write of a bulk stream, in bytes.
const Chunk = 128 << 10

// TallyAddress is the address of the server for [AskTally], inside the VPC.
const TallyAddress = "127.0.0.1:5005"

// Servers are the running servers of one address.
type Servers struct {
	closers []io.Closer
	floods  floods
}

// Start starts all services. UDP services listen on address only: a socket bound to
// every address may answer from another one.
func Start(address string) (*Servers, error) {
	s := &Servers{floods: floods{seen: map[uint64]*Seen{}, tally: map[uint64]*Tally{}}}
	for port, serve := range map[int]func(net.Conn){
		EchoPort:   echoStream,
		SinkPort:   sink,
		SourcePort: source,
		HangupPort: func(c net.Conn) { c.Write([]byte{1}) },
		tallyPort:  s.floods.answer,
		FilePort:   file,
	} {
		if err := s.tcp(port, serve); err != nil {
			s.Close()
			return nil, err
		}
	}
	for port, answer := range map[int]func(*net.UDPConn){
		EchoPort:  echo,
		DNSPort:   answerDNS,
		FloodPort: s.floods.serve,
	} {
		if err := s.udp(address, port, answer); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Close ends the listeners; connections end with the process.
func (s *Servers) Close() error {
	for _, c := range s.closers {
		c.Close()
	}
	return nil
}

func (s *Servers) tcp(port int, serve func(net.Conn)) error {
	// Go's listen backlog is net.core.somaxconn, which newWorld raises for the burst.
	ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return fmt.Errorf("listening for TCP: %w", err)
	}
	s.closers = append(s.closers, ln)
	go func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // such as out of open files, which is temporary
				time.Sleep(10 * time.Millisecond)
				continue
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return nil
}

func (s *Servers) udp(address string, port int, serve func(*net.UDPConn)) error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address), Port: port})
	if err != nil {
		return fmt.Errorf("listening for UDP: %w", err)
	}
	Deepen(c)
	s.closers = append(s.closers, c)
	go serve(c)
	return nil
}

// Deepen enlarges the buffers of a socket, so that they are not the limit that is
// measured. As root, they may exceed net.core.rmem_max.
func Deepen(c syscall.Conn) {
	const size = 16 << 20
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size)
	})
}

// echoStream does not use io.Copy, which would splice through a pipe and so need two
// more open files per connection.
func echoStream(c net.Conn) {
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// sink reads a stream and answers with the number of its bytes.
func sink(c net.Conn) {
	var sum int64
	for buf := make([]byte, Chunk); ; {
		n, err := c.Read(buf)
		sum += int64(n)
		if errors.Is(err, io.EOF) || n > 0 && buf[n-1] == Last {
			json.NewEncoder(c).Encode(sum)
			return
		}
		if err != nil {
			return
		}
	}
}

func source(c net.Conn) {
	buf := make([]byte, Chunk)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// AskFile asks a server at [FilePort] for a file of size bytes.
func AskFile(c net.Conn, size int64) error {
	if err := binary.Write(c, binary.BigEndian, size); err != nil {
		return fmt.Errorf("asking for a file: %w", err)
	}
	return nil
}

func file(c net.Conn) {
	var left int64
	if binary.Read(c, binary.BigEndian, &left) != nil {
		return
	}
	for buf := make([]byte, Chunk); left > 0; {
		n, err := c.Write(buf[:min(left, Chunk)])
		if err != nil {
			return
		}
		left -= int64(n)
	}
}
