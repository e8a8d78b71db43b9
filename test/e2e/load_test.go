package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/testwait"
)

// load is the traffic of clients during a test.
type load struct {
	w     *world
	quit  context.CancelFunc // stops the start of further requests
	abort context.CancelFunc // ends requests in progress
	wg    sync.WaitGroup

	connections, requests tally
	direct                tally // connections that bypass the router
	streams               []*longFlow
}

// tally counts the outcomes of one kind of request.
type tally struct {
	mu      sync.Mutex
	done    int
	hung    int // without an answer when the load was aborted
	failed  []error
	last    time.Time     // of a success
	gap     time.Duration // longest time between two successes
	slowest time.Duration
}

func (t *tally) note(began time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if err != nil {
		t.failed = append(t.failed, err)
		return
	}
	t.done++
	t.slowest = max(t.slowest, now.Sub(began))
	if !t.last.IsZero() {
		t.gap = max(t.gap, now.Sub(t.last))
	}
	t.last = now
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := fmt.Sprintf("%d done, %d failed, %d without an answer, longest gap %v, slowest %v", t.done, len(t.failed), t.hung,
		t.gap.Round(time.Millisecond), t.slowest.Round(time.Millisecond))
	if len(t.failed) > 0 {
		s += fmt.Sprintf(" (first: %v)", t.failed[0])
	}
	return s
}

func (t *tally) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failed)
}

func (t *tally) successes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

func (t *tally) longestGap() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gap
}

const (
	connectEvery = 20 * time.Millisecond
	requestEvery = 200 * time.Millisecond
	requestTime  = 900 * time.Millisecond
	streamEvery  = 200 * time.Millisecond
	echoPort     = "1007"
)

// startLoad opens a connection every 20 ms, starts a request that takes up to a second every
// 200 ms, and keeps flows open that echo a word every 200 ms. limit is the clients' timeout
// for every answer.
func (w *world) startLoad(flows int, limit time.Duration) *load {
	w.t.Helper()
	ctx, abort := context.WithCancel(w.t.Context())
	starting, quit := context.WithCancel(ctx)
	l := &load{w: w, quit: quit, abort: abort}
	w.t.Cleanup(l.cutShort)
	for i := range flows {
		conn, err := w.client.Dial(ctx, "tcp", net.JoinHostPort(dbHost, echoPort))
		if err != nil {
			w.t.Fatalf("opening flow %d: %v", i, err)
		}
		l.streams = append(l.streams, l.startStream(starting, conn, limit))
	}
	db, machine := net.JoinHostPort(dbHost, "80"), w.serveMachine()
	l.every(starting, connectEvery, func() { l.ask(ctx, &l.direct, machine, "/", limit) })
	l.every(starting, connectEvery, func() { l.ask(ctx, &l.connections, db, "/", limit) })
	l.every(starting, requestEvery, func() { l.ask(ctx, &l.requests, db, "/?think="+requestTime.String(), limit) })
	return l
}

// serveMachine serves HTTP on the client's own network.
func (w *world) serveMachine() (address string) {
	ln, err := w.self.Listen("tcp", net.JoinHostPort(selfIP, "0"))
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "here") })}
	go srv.Serve(ln)
	w.t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// slack returns the time that a loaded machine may add to any duration that clients measure.
// A packet through the router wakes four more processes than one that bypasses it.
func (l *load) slack() time.Duration {
	return 4 * max(0, l.direct.longestGap()-2*connectEvery)
}

// stalled returns the longest time without a successful connection if it exceeds limit plus
// slack, else 0.
func (l *load) stalled(limit time.Duration) time.Duration {
	if gap := l.connections.longestGap(); gap > limit+l.slack() {
		return gap
	}
	return 0
}

// every starts f periodically, without waiting for earlier calls to return.
func (l *load) every(ctx context.Context, pause time.Duration, f func()) {
	l.wg.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.wg.Go(f)
			case <-ctx.Done():
				return
			}
		}
	})
}

// ask sends one request over a new connection.
func (l *load) ask(ctx context.Context, t *tally, server, path string, limit time.Duration) {
	began := time.Now()
	err := func() error {
		dialing, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		conn, err := l.w.client.Dial(dialing, "tcp", server)
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(limit))
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn)
		if err == nil && len(answer) == 0 {
			err = errors.New("no answer")
		}
		return err
	}()
	switch {
	case ctx.Err() == nil:
		t.note(began, err)
	case time.Since(began) > 2*requestTime:
		t.mu.Lock()
		t.hung++ // the load ended it
		t.mu.Unlock()
	}
}

// window keeps the load running for length, and until a connection has succeeded in it.
func (l *load) window(length time.Duration) {
	l.w.t.Helper()
	before := l.connections.successes()
	time.Sleep(length)
	testwait.Until(l.w.t, "a connection of the load", func() error {
		if l.connections.successes() == before {
			return errors.New("none has succeeded")
		}
		return nil
	})
}

// stop stops the start of requests and waits for those in progress, at most for the limit.
func (l *load) stop() {
	l.quit()
	for _, s := range l.streams {
		s.conn.Close()
	}
	l.wg.Wait()
	l.abort()
}

// cutShort ends the load without waiting for the last connections.
func (l *load) cutShort() {
	l.abort()
	l.stop()
}

// longFlow is a flow that the load keeps open.
type longFlow struct {
	conn   net.Conn
	rounds atomic.Int64
	last   atomic.Int64  // unix nanoseconds of the last answer
	ended  chan struct{} // closed when the client has learned of its end
	took   time.Duration // from the last answer until then
	err    error
}

func (l *load) startStream(ctx context.Context, conn net.Conn, limit time.Duration) *longFlow {
	s := &longFlow{conn: conn, ended: make(chan struct{})}
	s.last.Store(time.Now().UnixNano())
	l.wg.Go(func() {
		defer close(s.ended)
		tick := time.NewTicker(streamEvery)
		defer tick.Stop()
		buf := make([]byte, 16)
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			conn.SetDeadline(time.Now().Add(limit))
			_, err := conn.Write(fmt.Appendf(nil, "%016d", s.rounds.Load()))
			if err == nil {
				_, err = io.ReadFull(conn, buf)
			}
			if err != nil {
				s.err, s.took = err, time.Since(time.Unix(0, s.last.Load()))
				return
			}
			s.rounds.Add(1)
			s.last.Store(time.Now().UnixNano())
		}
	})
	return s
}

// cut returns the number of ended flows, and the longest time until a client learned of it.
func (l *load) cut() (n int, slowest time.Duration) {
	for _, s := range l.streams {
		select {
		case <-s.ended:
			n++
			slowest = max(slowest, s.took)
		default:
		}
	}
	return n, slowest
}

// awaitCut waits until every stream has ended.
func (l *load) awaitCut(t *testing.T) {
	t.Helper()
	testwait.Until(t, "the streams to end", func() error {
		if n, _ := l.cut(); n < len(l.streams) {
			return fmt.Errorf("%d of %d have ended", n, len(l.streams))
		}
		return nil
	})
}
