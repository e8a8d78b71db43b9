package tailnet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"subnetrouter/internal/problem"

	"tailscale.com/ipn"
)

// State keeps the identity of a node: a few kilobytes in the format of tailscaled's state
// file. The node calls Load once, and Save not concurrently. Both bound their time.
type State interface {
	// Load returns the stored text; empty if there is none.
	Load() ([]byte, error)
	// Save replaces the stored text.
	Save(text []byte) error
	// String names the place, for logs and errors.
	String() string
}

const (
	// retryStoreEvery is the period of attempts to store a state that could not be stored.
	retryStoreEvery = time.Minute
	// storeWait bounds the engine's wait for its state to be stored: the engine holds its
	// locks meanwhile, and a disk may hang.
	storeWait = 2 * time.Second
)

// stateStore keeps the node's state in memory and in a [State]. If that cannot be written, the
// node loses its identity at the next start, but traffic continues: the node works with the
// state in memory, and the store retries. A stored state that cannot be read is never
// replaced.
//
// openStateStore's goroutine, and then run's, save the state; the engine reads and writes it.
type stateStore struct {
	kept State
	// report is called with the error when storing begins to fail, and with nil when it
	// works again. It is called by the goroutine that saves the state, without mu.
	report     func(error)
	unwritable error         // the reason not to save: the stored state cannot be read
	written    chan struct{} // has an element if version has changed since run stored it; capacity 1

	mu          sync.Mutex // covers the fields below
	cache       map[ipn.StateKey][]byte
	version     int           // the number of changes of cache
	attempted   int           // the version of the last attempt to store
	lastErr     error         // the error of that attempt
	attemptDone chan struct{} // closed, and replaced, after each attempt; closed for good by run
	ended       bool          // run has returned
}

// openStateStore loads the state, and reports whether the identity is expected to outlast the
// process: whether there was a state or one could be saved.
func openStateStore(kept State, report func(error)) (s *stateStore, lasts bool) {
	s = &stateStore{kept: kept, report: report, written: make(chan struct{}, 1), cache: map[ipn.StateKey][]byte{}, attemptDone: make(chan struct{})}
	text, err := kept.Load()
	switch {
	case err != nil:
		s.unwritable = problem.Wrapf(err, "reading node state %s", kept)
	case len(bytes.TrimSpace(text)) > 0:
		if err := json.Unmarshal(text, &s.cache); err != nil {
			s.unwritable = fmt.Errorf("reading node state %s: not in tailscaled's JSON format: %w", kept, err)
			s.cache = nil
		}
		if s.cache == nil { // also if the JSON is null
			s.cache = map[ipn.StateKey][]byte{}
		}
	}
	found := len(s.cache) > 0
	return s, s.store() == nil || found
}

// ReadState implements [ipn.StateStore].
func (s *stateStore) ReadState(id ipn.StateKey) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.cache[id]
	if !ok {
		return nil, ipn.ErrStateNotExist
	}
	return value, nil
}

// WriteState implements [ipn.StateStore]. The engine calls it with its locks held. It never
// fails: see [stateStore].
func (s *stateStore) WriteState(id ipn.StateKey, value []byte) error {
	s.mu.Lock()
	old, ok := s.cache[id]
	if ok == (value != nil) && bytes.Equal(old, value) {
		s.mu.Unlock()
		return nil
	}
	if value == nil {
		delete(s.cache, id)
	} else {
		s.cache[id] = bytes.Clone(value)
	}
	s.version++
	version := s.version
	s.mu.Unlock()
	select {
	case s.written <- struct{}{}:
	default:
	}
	s.await(version)
	return nil
}

// await waits until an attempt to store the version is over, for at most storeWait.
func (s *stateStore) await(version int) {
	timeout := time.NewTimer(storeWait)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		over, next := s.attempted >= version || s.ended, s.attemptDone
		s.mu.Unlock()
		if over {
			return
		}
		select {
		case <-next:
		case <-timeout.C:
			return
		}
	}
}

// run stores changes of the state, and retries after failures, until ctx ends.
func (s *stateStore) run(ctx context.Context) {
	tick := time.NewTicker(retryStoreEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.written:
			s.store()
		case <-tick.C:
			s.mu.Lock()
			again := s.lastErr != nil
			s.mu.Unlock()
			if again {
				s.store()
			}
		case <-ctx.Done():
			s.flush()
			return
		}
	}
}

// flush stores the changes since the last attempt. Only run calls it.
func (s *stateStore) flush() {
	for {
		s.mu.Lock()
		if s.attempted >= s.version {
			s.ended = true
			close(s.attemptDone)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.store()
	}
}

// store attempts to save the state. It is never called concurrently.
func (s *stateStore) store() error {
	s.mu.Lock()
	version, before := s.version, s.lastErr
	text, err := json.MarshalIndent(s.cache, "", "  ")
	s.mu.Unlock()
	switch {
	case s.unwritable != nil:
		err = s.unwritable
	case err == nil:
		if err = s.kept.Save(text); err != nil {
			err = problem.Wrapf(err, "writing node state %s", s.kept)
		}
	}
	s.mu.Lock()
	s.attempted, s.lastErr = version, err
	close(s.attemptDone)
	s.attemptDone = make(chan struct{})
	s.mu.Unlock()
	if (before == nil) != (err == nil) {
		s.report(err)
	}
	return err
}
