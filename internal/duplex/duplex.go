// Package duplex copies bytes between two connections whose streams end on their own, with buffers from a budget of memory.
package duplex

import "io"

// BufferSize is the memory of each direction of a [Copy] in bytes: a record of TLS.
const BufferSize = 16 << 10

// Memory is a budget of memory in bytes. Its methods may be called concurrently, and do not block.
type Memory interface {
	// Reserve takes n bytes, or returns false if there is no room for them.
	Reserve(n int64) bool
	// Release returns n bytes that Reserve took.
	Release(n int64)
}

// Conn is one side of a [Copy].
type Conn interface {
	io.ReadWriter
	// CloseWrite ends the stream to the other end.
	CloseWrite() error
	// Reset closes the connection, so that the other end knows that it did not end as it should. It wakes Read and Write,
	// and may be called more than once.
	Reset()
}

// Copy copies bytes between a and b until both directions have ended. An end of one stream is passed on, and the other
// direction continues. An error resets both. Copy closes neither otherwise.
func Copy(a, b Conn) {
	failed := make(chan bool, 2)
	go func() { failed <- copyTo(b, a) != nil }()
	go func() { failed <- copyTo(a, b) != nil }()
	for range 2 {
		if <-failed { // Reset wakes the other direction
			a.Reset()
			b.Reset()
		}
	}
}

func copyTo(dst, src Conn) error {
	// Without their other methods: ReadFrom and WriteTo of an embedded connection would pass by Read and Write.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, BufferSize))
	if err != nil {
		return err
	}
	return dst.CloseWrite()
}
