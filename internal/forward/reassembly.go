package forward

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// Limits of reassembly: a sender that never finishes gets no more than this. 10 s
// is less than RFC 8200's 60 s; what takes that long in a tunnel is lost.
const (
	maxDatagram       = 65535
	maxReassemblies   = 256
	maxPerSource      = 32 // so that none takes them all
	reassemblyTimeout = 10 * time.Second
)

// reassembly puts fragments together, for UDP and ICMP. TCP does not send any.
type reassembly struct {
	mu      sync.Mutex
	partial map[fragmentKey]*partialDatagram
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	protocol uint8
}

type partialDatagram struct {
	began  time.Time
	data   []byte
	have   int    // bytes received
	total  int    // -1 until the last fragment came
	filled []span // what is there, to tell overlaps
}

type span struct{ from, to int }

// fragmentOf reads the fragment in a packet that parse marked as one.
func fragmentOf(raw []byte) (key fragmentKey, offset int, more bool, data []byte, ok bool) {
	if raw[0]>>4 == 4 {
		header := int(raw[0]&15) * 4
		flags := binary.BigEndian.Uint16(raw[6:])
		key = fragmentKey{
			netip.AddrFrom4([4]byte(raw[12:16])), netip.AddrFrom4([4]byte(raw[16:20])),
			uint32(binary.BigEndian.Uint16(raw[4:])), raw[9],
		}
		return key, int(flags&0x1fff) * 8, flags&0x2000 != 0, raw[header:], true
	}
	// Only a fragment header right behind the IPv6 header: no client sends others.
	if raw[6] != protoFragment || len(raw) < ipv6Header+fragmentHeader {
		return fragmentKey{}, 0, false, nil, false
	}
	h := raw[ipv6Header:]
	flags := binary.BigEndian.Uint16(h[2:])
	key = fragmentKey{
		netip.AddrFrom16([16]byte(raw[8:24])), netip.AddrFrom16([16]byte(raw[24:40])),
		binary.BigEndian.Uint32(h[4:]), h[0],
	}
	return key, int(flags &^ 7), flags&1 != 0, h[fragmentHeader:], true
}

// add takes a fragment and returns the whole packet once it is complete, as if it
// had never been cut. Overlapping fragments void their datagram (RFC 5722).
func (r *reassembly) add(raw []byte, now time.Time) []byte {
	key, offset, more, data, ok := fragmentOf(raw)
	if !ok || key.protocol != protoUDP && key.protocol != protoICMP && key.protocol != protoICMPv6 ||
		len(data) == 0 || more && len(data)%8 != 0 || offset+len(data) > maxPayload(key.dst) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.partial[key]
	if d == nil {
		if len(r.partial) >= maxReassemblies {
			r.expire(now)
		}
		if len(r.partial) >= maxReassemblies || r.of(key.src) >= maxPerSource {
			return nil
		}
		d = &partialDatagram{began: now, total: -1}
		if r.partial == nil {
			r.partial = map[fragmentKey]*partialDatagram{}
		}
		r.partial[key] = d
	}
	end := offset + len(data)
	if !more {
		if d.total >= 0 && d.total != end {
			delete(r.partial, key)
			return nil
		}
		d.total = end
	}
	for _, s := range d.filled {
		if offset < s.to && s.from < end {
			delete(r.partial, key)
			return nil
		}
	}
	d.filled = append(d.filled, span{offset, end})
	if end > len(d.data) {
		d.data = append(d.data, make([]byte, end-len(d.data))...)
	}
	copy(d.data[offset:], data)
	d.have += len(data)
	if d.total < 0 || d.have < d.total {
		return nil
	}
	delete(r.partial, key)
	if len(d.data) != d.total {
		return nil // something lay beyond the end
	}
	h := headerSize(key.dst)
	whole := make([]byte, h+len(d.data))
	copy(whole[h:], d.data)
	putIP(whole, key.src, key.dst, key.protocol)
	return whole
}

// maxPayload is what an IP packet's length field leaves.
func maxPayload(addr netip.Addr) int {
	if addr.Is4() {
		return maxDatagram - ipv4Header
	}
	return maxDatagram
}

// of counts what a source has under way.
func (r *reassembly) of(src netip.Addr) (n int) {
	for key := range r.partial {
		if key.src == src {
			n++
		}
	}
	return n
}

// expire forgets what never became complete.
func (r *reassembly) expire(now time.Time) {
	for key, d := range r.partial {
		if now.Sub(d.began) > reassemblyTimeout {
			delete(r.partial, key)
		}
	}
}

func (r *reassembly) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
}
