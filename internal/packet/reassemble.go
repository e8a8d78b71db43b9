package packet

import (
	"bytes"
	"container/list"
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

// FragmentDrop is the reason why a fragment was dropped.
type FragmentDrop int

// The reasons why fragments are dropped.
const (
	FragmentMalformed   FragmentDrop = iota // it has no valid place in a datagram
	FragmentUnsupported                     // it is of neither UDP nor ICMP
	FragmentDuplicate                       // the same fragment arrived before
	FragmentOverlap                         // its datagram has overlapping fragments
	FragmentTimeout                         // its datagram stayed incomplete for too long
	FragmentEvicted                         // its datagram made room for another
	FragmentClosed                          // the Reassembler was closed

	// FragmentDrops is the number of reasons.
	FragmentDrops
)

// ReassemblerConfig configures a [Reassembler]. Every field is needed.
type ReassemblerConfig struct {
	// Node returns the address of the source's node, to which its share is charged. It is
	// called without a lock, once for a datagram.
	Node func(src netip.Addr) netip.Addr
	// Dropped counts dropped fragments. It may be called with the Reassembler's lock held, and
	// must neither block nor call the Reassembler.
	Dropped func(reason FragmentDrop, fragments int)
}

// Reassembler reassembles fragments of UDP and ICMP; TCP does not send any. When it is full it
// evicts the oldest unfinished datagram and never refuses a new one: the oldest has most likely
// lost a fragment, a new one most likely has not. Its methods may be called concurrently.
//
// Each fragment that is added becomes a part of one returned packet, or is dropped once.
type Reassembler struct {
	cfg ReassemblerConfig

	// mu guards everything below. partial and sources have the same datagrams.
	mu      sync.Mutex
	partial map[fragmentKey]*partialDatagram
	sources map[netip.Addr]*list.List // of *partialDatagram, oldest first; none is empty
}

// NewReassembler returns an empty Reassembler.
func NewReassembler(cfg ReassemblerConfig) *Reassembler {
	return &Reassembler{cfg: cfg, partial: map[fragmentKey]*partialDatagram{}, sources: map[netip.Addr]*list.List{}}
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	protocol uint8
}

type partialDatagram struct {
	key       fragmentKey
	source    netip.Addr    // its key in Reassembler.sources
	element   *list.Element // in Reassembler.sources[source]
	began     time.Time
	data      []byte // a copy, which the reassembled packet gets
	have      int    // bytes received
	total     int    // -1 until the last fragment arrives
	fragments []span // received, in order of offset, without overlaps
}

// span is a range of a datagram's data: from inclusive, to exclusive.
type span struct{ from, to int }

// Add adds the fragment in raw, a packet that [Packet.Parse] marked as one, and returns the
// reassembled packet if it was the last one missing. raw is not kept; the result is the
// caller's. now must not decrease much: a datagram is dropped when it is 2 s old.
//
// Overlapping fragments void their datagram (RFC 5722). An exact duplicate, which a network may
// produce, is ignored (RFC 8200 section 4.5).
func (r *Reassembler) Add(raw []byte, now time.Time) []byte {
	f, ok := ParseFragment(raw)
	key, offset, more, data := fragmentKey{f.Src, f.Dst, f.ID, f.Protocol}, f.Offset, f.More, f.Data
	if !ok || len(data) == 0 || more && len(data)%8 != 0 || offset+len(data) > maxPayload(key.dst) {
		r.cfg.Dropped(FragmentMalformed, 1)
		return nil
	}
	if key.protocol != ProtoUDP && key.protocol != ProtoICMP && key.protocol != ProtoICMPv6 {
		r.cfg.Dropped(FragmentUnsupported, 1)
		return nil
	}
	if offset == 0 && !more { // an atomic fragment (RFC 6946)
		return wholeOf(key, data)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.partial[key]
	if d != nil && now.Sub(d.began) > reassemblyTimeout {
		r.drop(d, FragmentTimeout) // the sender reused the identification
		d = nil
	}
	if d == nil {
		// Node is another package's function: it is called without the lock.
		r.mu.Unlock()
		source := r.cfg.Node(key.src)
		r.mu.Lock()
		d = r.begin(key, source, now)
	}
	end := offset + len(data)
	at, _ := slices.BinarySearchFunc(d.fragments, offset, func(s span, offset int) int { return s.from - offset })
	if at < len(d.fragments) && d.fragments[at] == (span{offset, end}) && bytes.Equal(d.data[offset:end], data) &&
		(more || d.total == end) {
		r.cfg.Dropped(FragmentDuplicate, 1)
		return nil
	}
	overlaps := at > 0 && d.fragments[at-1].to > offset || at < len(d.fragments) && d.fragments[at].from < end
	d.fragments = slices.Insert(d.fragments, at, span{offset, end})
	if !more && d.total < 0 {
		d.total = end
	}
	beyond := d.total >= 0 && (d.fragments[len(d.fragments)-1].to > d.total || !more && d.total != end)
	if overlaps || beyond {
		r.drop(d, FragmentOverlap)
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

// wholeOf returns a packet with a copy of data.
func wholeOf(key fragmentKey, data []byte) []byte {
	h := HeaderSize(key.dst)
	whole := make([]byte, h+len(data))
	copy(whole[h:], data)
	PutIP(whole, key.src, key.dst, key.protocol)
	return whole
}

// maxPayload returns the longest payload that an IP packet's length field allows.
func maxPayload(addr netip.Addr) int {
	if addr.Is4() {
		return maxDatagram - IPv4Header
	}
	return maxDatagram
}

// begin returns the datagram of key, which is new unless another goroutine added it. It makes
// room by evicting the oldest datagram: the source's own if the source has reached its share,
// else that of the source with the most.
func (r *Reassembler) begin(key fragmentKey, source netip.Addr, now time.Time) *partialDatagram {
	if d := r.partial[key]; d != nil {
		return d
	}
	if own := r.sources[source]; own != nil && own.Len() >= maxPerSource {
		r.drop(own.Front().Value.(*partialDatagram), FragmentEvicted)
	} else if len(r.partial) >= maxReassemblies {
		r.drop(r.largest().Front().Value.(*partialDatagram), FragmentEvicted)
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
func (r *Reassembler) largest() (largest *list.List) {
	began := func(own *list.List) time.Time { return own.Front().Value.(*partialDatagram).began }
	for _, own := range r.sources {
		if largest == nil || own.Len() > largest.Len() || own.Len() == largest.Len() && began(own).Before(began(largest)) {
			largest = own
		}
	}
	return largest
}

// drop removes a datagram and counts its fragments as dropped.
func (r *Reassembler) drop(d *partialDatagram, reason FragmentDrop) {
	r.cfg.Dropped(reason, len(d.fragments))
	r.forget(d)
}

// forget removes a datagram from both tables.
func (r *Reassembler) forget(d *partialDatagram) {
	delete(r.partial, d.key)
	own := r.sources[d.source]
	own.Remove(d.element)
	if own.Len() == 0 {
		delete(r.sources, d.source)
	}
}

// Sweep drops the datagrams that have timed out. Call it about once a second.
func (r *Reassembler) Sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.partial {
		if now.Sub(d.began) > reassemblyTimeout {
			r.drop(d, FragmentTimeout)
		}
	}
}

// Close drops the unfinished datagrams.
func (r *Reassembler) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.partial {
		r.drop(d, FragmentClosed)
	}
}
