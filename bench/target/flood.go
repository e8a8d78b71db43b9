package target

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A datagram of a flood begins with its kind, the flood's number and its sequence number.
const (
	kindData = 1 // is counted
	kindAsk  = 2 // requests a flood; the rest is an [Ask]
)

// HeaderLen is the smallest size of a flood's datagram, in bytes.
const HeaderLen = 1 + 8 + 8

// Put writes the header of datagram seq of a flood.
func Put(b []byte, flood, seq uint64) {
	b[0] = kindData
	binary.BigEndian.PutUint64(b[1:], flood)
	binary.BigEndian.PutUint64(b[9:], seq)
}

// Ask is a request for a flood towards the client.
type Ask struct {
	Flood uint64
	Size  int     // bytes
	Rate  float64 // datagrams/s
	For   time.Duration
}

// Datagram returns the datagram that requests a.
func (a Ask) Datagram() []byte {
	text, _ := json.Marshal(a) // cannot fail: it has only numbers
	b := make([]byte, HeaderLen, HeaderLen+len(text))
	Put(b, a.Flood, 0)
	b[0] = kindAsk
	return append(b, text...)
}

// Tally holds the counts of a flood on the VPC's side.
type Tally struct {
	Sent     int // datagrams
	Received int // datagrams, each once
}

// AskTally reads the tally of a flood from a connection to [TallyAddress].
func AskTally(c net.Conn, flood uint64) (t Tally, err error) {
	if err := json.NewEncoder(c).Encode(flood); err != nil {
		return t, fmt.Errorf("asking for the tally: %w", err)
	}
	if err := json.NewDecoder(c).Decode(&t); err != nil {
		return t, fmt.Errorf("reading the tally: %w", err)
	}
	return t, nil
}

type floods struct {
	mu    sync.Mutex
	seen  map[uint64]*Seen
	tally map[uint64]*Tally
}

func (f *floods) answer(c net.Conn) {
	var flood uint64
	if json.NewDecoder(c).Decode(&flood) != nil {
		return
	}
	f.mu.Lock()
	var t Tally
	if known := f.tally[flood]; known != nil {
		t = *known
	}
	if s := f.seen[flood]; s != nil {
		t.Received = s.Count
	}
	f.mu.Unlock()
	json.NewEncoder(c).Encode(t)
}

func (f *floods) serve(c *net.UDPConn) {
	buf := make([]byte, 65535)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if n < HeaderLen {
			continue
		}
		flood, seq := binary.BigEndian.Uint64(buf[1:]), binary.BigEndian.Uint64(buf[9:])
		switch buf[0] {
		case kindData:
			f.count(flood, seq)
		case kindAsk:
			var a Ask
			if json.Unmarshal(buf[HeaderLen:n], &a) == nil {
				f.send(c, from, a)
			}
		}
	}
}

func (f *floods) count(flood, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[flood] == nil {
		f.seen[flood] = &Seen{}
	}
	f.seen[flood].Add(seq)
}

// send starts the flood that a requests, unless an earlier request did.
func (f *floods) send(c *net.UDPConn, to netip.AddrPort, a Ask) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tally[a.Flood] != nil {
		return
	}
	t := &Tally{}
	f.tally[a.Flood] = t
	go func() {
		Pace(a.Rate, a.For, func(seq uint64, b []byte) {
			Put(b, a.Flood, seq)
			if _, err := c.WriteToUDPAddrPort(b, to); err == nil {
				f.mu.Lock()
				t.Sent++
				f.mu.Unlock()
			}
		}, make([]byte, a.Size))
	}()
}

// Pace calls send for the period, rate times a second on average, in batches of a
// millisecond. A sender that falls behind does not extend the period.
func Pace(rate float64, period time.Duration, send func(seq uint64, b []byte), b []byte) {
	start := time.Now()
	for seq := uint64(0); ; time.Sleep(time.Millisecond) {
		elapsed := time.Since(start)
		for due := uint64(rate * min(elapsed, period).Seconds()); seq < due && time.Since(start) < period; seq++ {
			send(seq, b)
		}
		if elapsed >= period {
			return
		}
	}
}

// Seen is a set of sequence numbers.
type Seen struct {
	Count int
	bits  []uint64
}

// maxSeq bounds the memory of a set if a datagram is not one of a flood.
const maxSeq = 1 << 28

// Add puts seq into the set.
func (s *Seen) Add(seq uint64) {
	if seq >= maxSeq {
		return
	}
	for uint64(len(s.bits))*64 <= seq {
		s.bits = append(s.bits, 0)
	}
	if bit := uint64(1) << (seq % 64); s.bits[seq/64]&bit == 0 {
		s.bits[seq/64] |= bit
		s.Count++
	}
}
