package httpfront

import (
	"net/http"
	"sync"
	"time"
)

// watch ends a read or a write of a client's that does not move for limit. It uses a timer of its own, because a deadline of
// HTTP/2 that has passed cannot be extended, and each change of one costs a message to the connection's goroutine.
type watch struct {
	limit  time.Duration
	expire func()

	mu    sync.Mutex // guards the fields below, and calls of expire
	timer *time.Timer
	began time.Time // zero while nothing waits
	over  bool
}

// start begins the time of a read or a write.
func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.began = time.Now()
	if w.timer == nil {
		w.timer = time.AfterFunc(w.limit, w.fire)
	} else {
		w.timer.Reset(w.limit)
	}
}

// stop ends it.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = time.Time{}
	if w.timer != nil {
		w.timer.Stop()
	}
}

// end stops the watch for good: expire is not called afterwards.
func (w *watch) end() {
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && !w.began.IsZero() && time.Since(w.began) >= w.limit {
		w.expire()
	}
}

// past returns a deadline that has passed.
func past() time.Time { return time.Now().Add(-time.Second) }

// writer is the [http.ResponseWriter] of a request whose client has to read.
type writer struct {
	http.ResponseWriter
	controller *http.ResponseController // of ResponseWriter
	watch      watch
}

// WriteHeader implements [http.ResponseWriter].
func (w *writer) WriteHeader(code int) {
	w.watch.start()
	defer w.watch.stop()
	w.ResponseWriter.WriteHeader(code)
}

// Write implements [http.ResponseWriter].
func (w *writer) Write(p []byte) (int, error) {
	w.watch.start()
	defer w.watch.stop()
	return w.ResponseWriter.Write(p)
}

// FlushError is the method by which [http.ResponseController] flushes.
func (w *writer) FlushError() error {
	w.watch.start()
	defer w.watch.stop()
	return w.controller.Flush()
}

// Unwrap serves [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
