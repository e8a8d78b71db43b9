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
	// storeAgainEvery is how often a state that could not be stored is tried again.
	storeAgainEvery = time.Minute
	// storeWait is how long the engine waits for its state to be stored: it holds its
	// locks meanwhile, and a disk may take forever.
	storeWait = 2 * time.Second
)

// fileStore keeps the node's state in memory and in a file, in the format of tailscaled.
// A file that cannot be written costs the node its identity at the next start, not the
// traffic that flows now: the node goes on with what is in memory, and the file is tried
// again. A file that is there and cannot be read is left alone.
type fileStore struct {
	path string
	// report gets why the state is not stored, or nil once it is again. It is called
	// without mu.
	report func(error)
	broken error // why the file must not be written: it holds something else
	kick   chan struct{}

	mu      sync.Mutex
	cache   map[ipn.StateKey][]byte
	version int           // of cache
	tried   int           // the version of the last try to store it
	failed  error         // of that try
	next    chan struct{} // closed at the end of the next try, or of run
	ended   bool          // run has returned
}

// openFileStore reads path, and reports whether the identity will outlast the process as
// far as can be told now: the file holds a state, or could be written.
func openFileStore(path string, report func(error)) (s *fileStore, lasts bool) {
	s = &fileStore{path: path, report: report, kick: make(chan struct{}, 1), cache: map[ipn.StateKey][]byte{}, next: make(chan struct{})}
	text, err := os.ReadFile(path)
	switch {
	case err == nil && len(bytes.TrimSpace(text)) > 0:
		if err := json.Unmarshal(text, &s.cache); err != nil {
			s.broken = fmt.Errorf("reading node state %s: it is not tailscaled's JSON: %w", path, err)
			s.cache = nil
		}
		if s.cache == nil { // as if the file says null
			s.cache = map[ipn.StateKey][]byte{}
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		s.broken = fmt.Errorf("reading node state: %w", err)
	}
	known := len(s.cache) > 0
	return s, s.try() == nil || known
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

// WriteState implements [ipn.StateStore]. It never fails: see [fileStore].
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
	case s.kick <- struct{}{}:
	default:
	}
	s.await(version)
	return nil
}

// await waits until a try to store the version is over, or for storeWait.
func (s *fileStore) await(version int) {
	timeout := time.NewTimer(storeWait)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		over, next := s.tried >= version || s.ended, s.next
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

// run stores what is written until ctx ends, and tries again what could not be stored.
func (s *fileStore) run(ctx context.Context) {
	tick := time.NewTicker(storeAgainEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.kick:
			s.try()
		case <-tick.C:
			s.mu.Lock()
			again := s.failed != nil
			s.mu.Unlock()
			if again {
				s.try()
			}
		case <-ctx.Done():
			s.end()
			return
		}
	}
}

// end stores what was written since the last try. It is for run.
func (s *fileStore) end() {
	for {
		s.mu.Lock()
		if s.tried >= s.version {
			s.ended = true
			close(s.next)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.try()
	}
}

// try writes the file and returns its error. It is not called concurrently.
func (s *fileStore) try() error {
	s.mu.Lock()
	version, before := s.version, s.failed
	text, err := json.MarshalIndent(s.cache, "", "  ")
	s.mu.Unlock()
	switch {
	case s.broken != nil:
		err = s.broken
	case err == nil:
		if err = paths.MkStateDir(filepath.Dir(s.path)); err == nil {
			err = atomicfile.WriteFile(s.path, text, 0o600)
		}
		if err != nil {
			err = fmt.Errorf("writing node state %s: %w", s.path, err)
		}
	}
	s.mu.Lock()
	s.tried, s.failed = version, err
	close(s.next)
	s.next = make(chan struct{})
	s.mu.Unlock()
	if (before == nil) != (err == nil) {
		s.report(err)
	}
	return err
}
