package dns

import (
	"container/list"
	"net/netip"
	"time"
)

const (
	maxStale      = 24 * time.Hour   // after the end of an answer's lifetime
	staleTTL      = 30 * time.Second // of the records of a stale answer
	staleAfter    = 1800 * time.Millisecond
	recheckAfter  = 30 * time.Second // a failed refresh, while the answer is stale
	failureTTL    = 2 * time.Second  // of a failure, when there is no answer
	entryOverhead = 400              // bytes of an entry besides its answer, rounded up
	// ownerShare is the part of the cache that the answers of one node's questions may fill.
	ownerShare = 4
	// An answer is popular if it was used popularAfter times; it is refreshed in the last
	// tenth of a lifetime of at least prefetchFrom.
	popularAfter = 3
	prefetchPart = 10
	prefetchFrom = 10 * time.Second
)

// entry is an answer in the cache. Its answer does not change; the lock of the server guards the rest.
type entry struct {
	key
	*answer
	stored  time.Time
	recheck time.Time // a stale answer is used until then without asking the resolver
	result  result    // hit; for a failure or refusal, which is never stale, that
	hits    int

	owner    *owner
	size     int
	all, own *list.Element // its places in cache.all and owner.entries
}

func (e *entry) fresh(now time.Time) bool { return now.Sub(e.stored) < e.lifetime }

// popular reports whether e should be refreshed before it ends.
func (e *entry) popular(now time.Time) bool {
	return e.result == hit && now.After(e.recheck) && e.hits >= popularAfter && e.lifetime >= prefetchFrom &&
		e.lifetime-now.Sub(e.stored) < e.lifetime/prefetchPart
}

// staleReply returns the answer of e past its lifetime; there is none for a nil e.
func (e *entry) staleReply(now time.Time) reply {
	if e == nil || e.result != hit || now.Sub(e.stored) > e.lifetime+maxStale {
		return reply{}
	}
	return reply{answer: e.answer, stale: true, result: stale}
}

// owner is the share of a node in the cache: the answers to the questions that it was the first to
// ask. It exists as long as there are any.
type owner struct {
	node    netip.Addr
	entries *list.List // of *entry; the most recently used first
	bytes   int
}

// cache holds answers, bounded by their number and size. If it is full, the least recently used answer
// leaves; if its share is, a node's own. The lock of the server guards it.
type cache struct {
	maxEntries, maxBytes int

	entries map[key]*entry
	all     *list.List // of *entry; the most recently used first
	owners  map[netip.Addr]*owner
	bytes   int
}

func newCache(maxEntries, maxBytes int) *cache {
	c := &cache{maxEntries: maxEntries, maxBytes: maxBytes}
	c.clear()
	return c
}

func (c *cache) clear() {
	c.entries, c.owners, c.all, c.bytes = map[key]*entry{}, map[netip.Addr]*owner{}, list.New(), 0
}

// get returns the entry for k, fresh or not, and counts it as used; nil if there is none that may
// still be used.
func (c *cache) get(k key, now time.Time) *entry {
	e := c.entries[k]
	if e == nil {
		return nil
	}
	if !e.fresh(now) && e.staleReply(now).answer == nil {
		c.remove(e)
		return nil
	}
	e.hits++
	c.all.MoveToFront(e.all)
	e.owner.entries.MoveToFront(e.own)
	return e
}

// put stores an answer for a node, in place of an older one.
func (c *cache) put(k key, a *answer, node netip.Addr, r result, now time.Time) {
	if old := c.entries[k]; old != nil {
		c.remove(old)
	}
	e := &entry{key: k, answer: a, stored: now, result: r, size: len(a.wire) + 2*len(a.ttls) + len(k.name) + entryOverhead}
	if e.size > c.maxBytes/ownerShare || a.lifetime <= 0 {
		return
	}
	e.owner = c.owners[node]
	if e.owner == nil {
		e.owner = &owner{node: node, entries: list.New()}
		c.owners[node] = e.owner
	}
	c.entries[k] = e
	e.all, e.own = c.all.PushFront(e), e.owner.entries.PushFront(e)
	c.bytes += e.size
	e.owner.bytes += e.size
	for e.owner.bytes > c.maxBytes/ownerShare || e.owner.entries.Len() > max(1, c.maxEntries/ownerShare) {
		c.remove(e.owner.entries.Back().Value.(*entry))
	}
	for c.bytes > c.maxBytes || len(c.entries) > c.maxEntries {
		c.remove(c.all.Back().Value.(*entry))
	}
}

func (c *cache) remove(e *entry) {
	delete(c.entries, e.key)
	c.all.Remove(e.all)
	e.owner.entries.Remove(e.own)
	c.bytes -= e.size
	e.owner.bytes -= e.size
	if e.owner.entries.Len() == 0 {
		delete(c.owners, e.owner.node)
	}
}
