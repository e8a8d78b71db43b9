package tcp

import "sync"

// block is a piece of memory for bytes of a stream. Blocks come from pools that all connections share, so that an idle
// connection holds none.
type block struct {
	b     []byte
	class int
	// In a sendBuffer, the positions of the first byte and of the one after the last. b[0] has position start.
	start, end int64
}

// blockSizes are the sizes of blocks. Receivers use only receiveBlock.
var blockSizes = [...]int{4 << 10, 16 << 10, 64 << 10}

const (
	receiveClass = 1
	receiveBlock = 16 << 10
	largestBlock = 64 << 10
)

var blockPools = [len(blockSizes)]sync.Pool{
	{New: func() any { return &block{b: make([]byte, blockSizes[0]), class: 0} }},
	{New: func() any { return &block{b: make([]byte, blockSizes[1]), class: 1} }},
	{New: func() any { return &block{b: make([]byte, blockSizes[2]), class: 2} }},
}

func newBlock(class int) *block { return blockPools[class].Get().(*block) }

func (b *block) free() {
	b.start, b.end = 0, 0
	blockPools[b.class].Put(b)
}

// classFor returns the class of the smallest block that holds n bytes, or of the largest.
func classFor(n int) int {
	for class, size := range blockSizes {
		if n <= size {
			return class
		}
	}
	return len(blockSizes) - 1
}

// blockQueue is a queue of blocks.
type blockQueue struct {
	list []*block
	head int // the index of the first
}

func (q *blockQueue) len() int        { return len(q.list) - q.head }
func (q *blockQueue) at(i int) *block { return q.list[q.head+i] }

func (q *blockQueue) push(b *block) {
	if q.head > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, b)
}

// pop removes the first block.
func (q *blockQueue) pop() *block {
	b := q.list[q.head]
	q.list[q.head] = nil
	q.head++
	if q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	return b
}

// sendBuffer holds the bytes from position start up to end.
type sendBuffer struct {
	blocks     blockQueue
	start, end int64
	held       int    // capacity of all blocks
	spare      *block // of an unfinished Buffer, unless that is the rest of the last block:
	lent       bool   // then the last block stays, even if all its bytes are released
}

// minRest is the rest of a block below which a reader gets a new block, if it wants more.
const minRest = 8 << 10

// buffer returns memory for up to n bytes after end.
func (s *sendBuffer) buffer(n int) []byte {
	s.drop()
	if n <= 0 {
		return nil
	}
	if last := s.last(); last != nil {
		rest := last.b[last.end-last.start:]
		if len(rest) >= min(n, minRest) {
			s.lent = true
			return rest[:min(n, len(rest))]
		}
	}
	s.spare = newBlock(classFor(n))
	s.held += len(s.spare.b)
	return s.spare.b[:min(n, len(s.spare.b))]
}

// commit appends the first n bytes of the last buffer. Few bytes in a large block move to memory of their size, so that
// bytes in flight do not occupy many times as much.
func (s *sendBuffer) commit(n int) {
	spare, lent := s.spare, s.lent
	if n <= 0 || spare == nil && !lent {
		s.drop()
		return
	}
	s.lent = false
	last := s.last()
	switch {
	case lent:
		last.end += int64(n)
		s.end = last.end
		return
	case last != nil && n <= len(last.b)-int(last.end-last.start):
		copy(last.b[last.end-last.start:], spare.b[:n])
		last.end += int64(n)
		s.end = last.end
		s.drop()
		return
	case n <= len(spare.b)/4 && spare.class > 0:
		small := newBlock(classFor(n))
		copy(small.b, spare.b[:n])
		s.held += len(small.b)
		s.drop()
		spare = small
	default:
		s.spare = nil
	}
	spare.start, spare.end = s.end, s.end+int64(n)
	s.end = spare.end
	s.blocks.push(spare)
}

func (s *sendBuffer) last() *block {
	if n := s.blocks.len(); n > 0 {
		return s.blocks.at(n - 1)
	}
	return nil
}

// drop ends an unfinished Buffer.
func (s *sendBuffer) drop() {
	if s.lent {
		s.lent = false
		s.release(s.start)
	}
	if s.spare != nil {
		s.held -= len(s.spare.b)
		s.spare.free()
		s.spare = nil
	}
}

// release frees the bytes before a position.
func (s *sendBuffer) release(to int64) {
	s.start = to
	for s.blocks.len() > 0 {
		first := s.blocks.at(0)
		if first.end > to || s.lent && s.blocks.len() == 1 {
			return
		}
		s.held -= len(first.b)
		s.blocks.pop().free()
	}
	if s.blocks.list != nil && cap(s.blocks.list) > 32 {
		s.blocks.list = nil // a connection that was fast may be idle from now on
	}
}

// clear frees everything. The memory of an unfinished Buffer, which may be written to at this moment, is left to the
// garbage collector: another connection must not get it.
func (s *sendBuffer) clear() {
	for s.blocks.len() > 0 {
		if b := s.blocks.pop(); !s.lent || s.blocks.len() > 0 {
			b.free()
		}
	}
	*s = sendBuffer{start: s.end, end: s.end}
}

// pieces appends the bytes from position from up to to.
func (s *sendBuffer) pieces(pieces [][]byte, from, to int64) [][]byte {
	low, high := 0, s.blocks.len()
	for low < high { // the first block that ends after from
		mid := (low + high) / 2
		if s.blocks.at(mid).end > from {
			high = mid
		} else {
			low = mid + 1
		}
	}
	for i := low; from < to; i++ {
		b := s.blocks.at(i)
		end := min(to, b.end)
		pieces = append(pieces, b.b[from-b.start:end-b.start])
		from = end
	}
	return pieces
}

// receiveBuffer holds received bytes from position start on. Block i has the positions that begin at a multiple of
// receiveBlock: bytes that arrive early have their final place at once, and nothing moves when a gap closes.
type receiveBuffer struct {
	blocks []*block // nil where nothing has arrived
	first  int64    // the position of blocks[0], a multiple of receiveBlock
	held   int      // capacity of all blocks
}

// write stores bytes at a position. base is the position of the first byte that the application has not consumed: no
// later write is before it.
func (r *receiveBuffer) write(base, at int64, data []byte) {
	if len(r.blocks) == 0 {
		r.first = base - base%receiveBlock
	}
	for len(data) > 0 {
		i := int((at - r.first) / receiveBlock)
		for len(r.blocks) <= i {
			r.blocks = append(r.blocks, nil)
		}
		if r.blocks[i] == nil {
			r.blocks[i] = newBlock(receiveClass)
			r.held += receiveBlock
		}
		n := copy(r.blocks[i].b[at%receiveBlock:], data)
		data, at = data[n:], at+int64(n)
	}
}

// pieces appends the bytes from position from up to to, at most as many pieces as there is room for.
func (r *receiveBuffer) pieces(pieces [][]byte, from, to int64) [][]byte {
	for from < to && len(pieces) < cap(pieces) {
		b := r.blocks[(from-r.first)/receiveBlock]
		n := min(to-from, receiveBlock-from%receiveBlock)
		pieces = append(pieces, b.b[from%receiveBlock:][:n])
		from += n
	}
	return pieces
}

// release frees the blocks before a position; all, if idle is set.
func (r *receiveBuffer) release(to int64, idle bool) {
	n := 0
	for n < len(r.blocks) && (idle || r.first+int64(n+1)*receiveBlock <= to) {
		if b := r.blocks[n]; b != nil {
			b.free()
			r.held -= receiveBlock
		}
		n++
	}
	if n == 0 {
		return
	}
	rest := copy(r.blocks, r.blocks[n:])
	clear(r.blocks[rest:])
	r.blocks = r.blocks[:rest]
	r.first += int64(n) * receiveBlock
	if rest == 0 && cap(r.blocks) > 64 {
		r.blocks = nil
	}
}
