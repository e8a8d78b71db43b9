package tailnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"tailscale.com/atomicfile"
	"tailscale.com/ipn"
	"tailscale.com/paths"
)

const (
	// retryStoreEvery is the period of attempts to store a state that could not be stored.
	retryStoreEvery = time.Minute
	// storeWait bounds the engine's wait for its state to be stored: the engine holds its
	// locks meanwhile, and a disk may hang.
	storeWait = 2 * time.Second
)

// fileStore keeps the node's state in memory and in a file, in tailscaled's format. If the
// file cannot be written, the node loses its identity at the next start, but traffic
// continues: the node works with the state in memory, and the store retries. A file that
// exists and cannot be read is never written.
//
// openFileStore's goroutine, and then run's, write the file; the engine reads and writes the
// state.
type fileStore struct {
	path string
	// report is called with the error when storing begins to fail, and with nil when it
	// works again. It is called by the goroutine that writes the
	// file, without mu.
	report     func(error)
	unwritable error         // the reason not to write the file: its content cannot be read
	written    chan struct{} // has an element if version has changed since run stored it; capacity 1

	mu          sync.Mutex // covers the fields below
	cache       map[ipn.StateKey][]byte
	version     int           // the number of changes of cache
	attempted   int           // the version of the last attempt to store
	lastErr     error         // the error of that attempt
	attemptDone chan struct{} // closed, and replaced, after each attempt; closed for good by run
	ended       bool          // run has returned
}

// openFileStore reads path, and reports whether the identity is expected to outlast the
// process: whether the file holds a state or could be written.
func openFileStore(path string, report func(error)) (s *fileStore, lasts bool) {
	s = &fileStore{path: path, report: report, written: make(chan struct{}, 1), cache: map[ipn.StateKey][]byte{}, attemptDone: make(chan struct{})}
	text, err := os.ReadFile(path)
	switch {
	case err == nil && len(bytes.TrimSpace(text)) > 0:
		if err := json.Unmarshal(text, &s.cache); err != nil {
			s.unwritable = fmt.Errorf("reading node state %s: not in tailscaled's JSON format: %w", path, err)
			s.cache = nil
		}
		if s.cache == nil { // also if the JSON is null
			s.cache = map[ipn.StateKey][]byte{}
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		s.unwritable = fmt.Errorf("reading node state: %w", err)
	}
	found := len(s.cache) > 0
	return s, s.store() == nil || found
}

// ReadState implements [ipn.StateStore].
func (s *fileStore) ReadState(id ipn.StateKey) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.cache[id]
	if !ok {
		return nil, ipn.ErrStateNotExist
	}
	return value, nil
}

// WriteState implements [ipn.StateStore]. The engine calls it with its locks held. It never
// fails: see [fileStore].
func (s *fileStore) WriteState(id ipn.StateKey, value []byte) error {
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
func (s *fileStore) await(version int) {
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
func (s *fileStore) run(ctx context.Context) {
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
func (s *fileStore) flush() {
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

// store attempts to write the file. It is never called concurrently.
func (s *fileStore) store() error {
	s.mu.Lock()
	version, before := s.version, s.lastErr
	text, err := json.MarshalIndent(s.cache, "", "  ")
	s.mu.Unlock()
	switch {
	case s.unwritable != nil:
		err = s.unwritable
	case err == nil:
		if err = paths.MkStateDir(filepath.Dir(s.path)); err == nil {
			err = atomicfile.WriteFile(s.path, text, 0o600)
		}
		if err != nil {
			err = fmt.Errorf("writing node state %s: %w", s.path, err)
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
