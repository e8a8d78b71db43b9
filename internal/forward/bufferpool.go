package forward

import "sync"

// bufferSize is enough for the largest datagram with its headers, for a run of datagrams, and
// for enough of a stream to be worth the system call.
const bufferSize = 64<<10 + 256

// bufferPool holds buffers of bufferSize. A flow has one only while it holds data: an idle flow
// has none.
type bufferPool struct{ pool sync.Pool } // of *[]byte

func newBufferPool() *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}}
}

// get returns a buffer with undefined content, which the caller owns until put.
func (p *bufferPool) get() *[]byte { return p.pool.Get().(*[]byte) }

func (p *bufferPool) put(b *[]byte) { p.pool.Put(b) }
