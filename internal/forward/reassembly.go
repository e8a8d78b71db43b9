package forward

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of reassembly. A datagram occupies at most 64 KiB, hence all of them 16 MiB. Fragments
// travel together: a datagram that is incomplete after 2 s has lost a fragment, even if its
// path changed from DERP to a direct one meanwhile. RFC 8200 allows up to 60 s, in which a
// lossy sender would fill any table.
const (
	maxDatagram       = 65535
	maxReassemblies   = 256
	maxPerSource      = 64
	reassemblyTimeout = 2 * time.Second
)

// reassembly reassembles fragments of UDP and ICMP; TCP does not send any. When it is full it
// evicts the oldest unfinished datagram and never refuses a new one: the oldest has most likely
// lost a fragment, a new one most likely has not.
type reassembly struct {
	drops *drops
	// node returns the address of the source's node, to which its share is charged.
	node func(src netip.Addr) netip.Addr

	mu      sync.Mutex
	partial map[fragmentKey]*partialDatagram
	sources map[netip.Addr]*list.List // of *partialDatagram, oldest first; none is empty
}

func newReassembly(d *drops, node func(netip.Addr) netip.Addr) *reassembly {
	return &reassembly{
		drops: d, node: node,
		partial: map[fragmentKey]*partialDatagram{}, sources: map[netip.Addr]*list.List{},
	}
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	protocol uint8
}

type partialDatagram struct {
	key       fragmentKey
	source    netip.Addr    // its key in reassembly.sources
	element   *list.Element // in reassembly.sources[source]
	began     time.Time
	data      []byte
	have      int    // bytes received
	total     int    // -1 until the last fragment arrives
	fragments []span // received, in order of offset
}

type span struct{ from, to int }

// fragmentOf reads the fragment in a packet that parse marked as one. ok is false if the packet
// has no fragment header directly after the IPv6 header; clients send no other extension
// headers.
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

// add adds a fragment, and returns the reassembled packet if it was the last one missing.
// Overlapping fragments void their datagram (RFC 5722). An exact duplicate, which a network may
// produce, is ignored (RFC 8200 section 4.5).
func (r *reassembly) add(raw []byte, now time.Time) []byte {
	key, offset, more, data, ok := fragmentOf(raw)
	if !ok || len(data) == 0 || more && len(data)%8 != 0 || offset+len(data) > maxPayload(key.dst) {
		r.drops.add(dropFragmentMalformed, 1)
		return nil
	}
	if key.protocol != protoUDP && key.protocol != protoICMP && key.protocol != protoICMPv6 {
		r.drops.add(dropUnsupported, 1)
		return nil
	}
	if offset == 0 && !more { // an atomic fragment (RFC 6946)
		return wholeOf(key, data)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.partial[key]
	if d != nil && now.Sub(d.began) > reassemblyTimeout {
		r.drop(d, dropFragmentTimeout) // the sender reused the identification
		d = nil
	}
	if d == nil {
		// node is another package's function: it is called without the lock.
		r.mu.Unlock()
		source := r.node(key.src)
		r.mu.Lock()
		d = r.begin(key, source, now)
	}
	end := offset + len(data)
	at, _ := slices.BinarySearchFunc(d.fragments, offset, func(s span, offset int) int { return s.from - offset })
	if at < len(d.fragments) && d.fragments[at] == (span{offset, end}) && bytes.Equal(d.data[offset:end], data) &&
		(more || d.total == end) {
		r.drops.add(dropFragmentDuplicate, 1)
		return nil
	}
	overlaps := at > 0 && d.fragments[at-1].to > offset || at < len(d.fragments) && d.fragments[at].from < end
	d.fragments = slices.Insert(d.fragments, at, span{offset, end})
	if !more && d.total < 0 {
		d.total = end
	}
	beyond := d.total >= 0 && (d.fragments[len(d.fragments)-1].to > d.total || !more && d.total != end)
	if overlaps || beyond {
		r.drop(d, dropFragmentOverlap)
		return nil
	}
	if end > len(d.data) {
		d.data = append(d.data, make([]byte, end-len(d.data))...)
	}
	copy(d.data[offset:], data)
	d.have += len(data)
	if d.have != d.total {
		return nil
	}
	r.forget(d)
	return wholeOf(key, d.data)
}

func wholeOf(key fragmentKey, data []byte) []byte {
	h := headerSize(key.dst)
	whole := make([]byte, h+len(data))
	copy(whole[h:], data)
	putIP(whole, key.src, key.dst, key.protocol)
	return whole
}

// maxPayload returns the longest payload that an IP packet's length field allows.
func maxPayload(addr netip.Addr) int {
	if addr.Is4() {
		return maxDatagram - ipv4Header
	}
	return maxDatagram
}

// begin returns the datagram of key, which is new unless another goroutine added it. It makes
// room by evicting the oldest datagram: the source's own if the source has reached its share,
// else that of the source with the most.
func (r *reassembly) begin(key fragmentKey, source netip.Addr, now time.Time) *partialDatagram {
	if d := r.partial[key]; d != nil {
		return d
	}
	if own := r.sources[source]; own != nil && own.Len() >= maxPerSource {
		r.drop(own.Front().Value.(*partialDatagram), dropFragmentEvicted)
	} else if len(r.partial) >= maxReassemblies {
		r.drop(r.largest().Front().Value.(*partialDatagram), dropFragmentEvicted)
	}
	own := r.sources[source]
	if own == nil {
		own = list.New()
		r.sources[source] = own
	}
	d := &partialDatagram{key: key, source: source, began: now, total: -1}
	d.element = own.PushBack(d)
	r.partial[key] = d
	return d
}

// largest returns the datagrams of the source with the most; of several, the one with the
// oldest datagram. There must be at least one datagram.
func (r *reassembly) largest() (largest *list.List) {
	began := func(own *list.List) time.Time { return own.Front().Value.(*partialDatagram).began }
	for _, own := range r.sources {
		if largest == nil || own.Len() > largest.Len() || own.Len() == largest.Len() && began(own).Before(began(largest)) {
			largest = own
		}
	}
	return largest
}

// drop removes a datagram and counts its fragments as dropped.
func (r *reassembly) drop(d *partialDatagram, reason dropReason) {
	r.drops.add(reason, len(d.fragments))
	r.forget(d)
}

func (r *reassembly) forget(d *partialDatagram) {
	delete(r.partial, d.key)
	own := r.sources[d.source]
	own.Remove(d.element)
	if own.Len() == 0 {
		delete(r.sources, d.source)
	}
}

// sweep drops the datagrams that timed out.
func (r *reassembly) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.partial {
		if now.Sub(d.began) > reassemblyTimeout {
			r.drop(d, dropFragmentTimeout)
		}
	}
}

// close drops the unfinished datagrams.
func (r *reassembly) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.partial {
		r.drop(d, dropClosed)
	}
}
