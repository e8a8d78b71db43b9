package tailnet

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tailscale.com/ipn"
)

// fileState is a State in a file.
type fileState string

func (f fileState) String() string { return string(f) }
func (f fileState) Load() ([]byte, error) {
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	return text, err
}

func (f fileState) Save(text []byte) error {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return err
	}
	return os.WriteFile(string(f), text, 0o600)
}

// stateIn returns the state in a folder; nil if dir is "".
func stateIn(dir string) State {
	if dir == "" {
		return nil
	}
	return fileState(filepath.Join(dir, "state"))
}

// openStore opens a store and runs it until the test ends.
func openStore(t *testing.T, path string) (s *stateStore, lasts bool, reported func() []error) {
	t.Helper()
	var mu sync.Mutex
	var list []error
	reported = func() []error {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
	s, lasts = openStateStore(fileState(path), func(err error) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, err)
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return s, lasts, reported
}

func TestStateOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "tailscaled.state")
	s, lasts, reported := openStore(t, path)
	if !lasts || len(reported()) != 0 {
		t.Fatalf("a writable folder: lasts %v, reported %v", lasts, reported())
	}
	s.WriteState("a", []byte("1"))
	s.WriteState("b", []byte("2"))
	s.WriteState("a", nil)
	again, lasts, _ := openStore(t, path)
	if b, err := again.ReadState("b"); string(b) != "2" || err != nil || !lasts {
		t.Errorf("b is %q, %v", b, err)
	}
	if _, err := again.ReadState("a"); !errors.Is(err, ipn.ErrStateNotExist) {
		t.Errorf("a, which was deleted: %v", err)
	}
}

// TestStateWrittenAtTheEnd has the engine write state while the store ends.
func TestStateWrittenAtTheEnd(t *testing.T) {
	for range 20 { // select picks at random among ready cases
		path := filepath.Join(t.TempDir(), "tailscaled.state")
		synctest.Test(t, func(t *testing.T) {
			s, _ := openStateStore(fileState(path), func(error) {})
			written := make(chan struct{})
			go func() { defer close(written); s.WriteState("a", []byte("1")) }()
			synctest.Wait() // it is queued
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			s.run(ctx)
			<-written
		})
		if again, _ := openStateStore(fileState(path), func(error) {}); string(again.cache["a"]) != "1" {
			t.Fatal("the last write is lost")
		}
	}
}

// TestStateThatCannotBeWritten blocks the file: the node works with the state in memory, and
// the file is written once that is possible.
func TestStateThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "state") // a file where a folder should be
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(blocked, "tailscaled.state")
	synctest.Test(t, func(t *testing.T) {
		s, lasts, reported := openStore(t, path)
		if lasts {
			t.Error("a state that cannot be written is reported to last")
		}
		if err := s.WriteState("a", []byte("1")); err != nil {
			t.Errorf("writing failed, which would stop the engine: %v", err)
		}
		if a, err := s.ReadState("a"); string(a) != "1" || err != nil {
			t.Errorf("reading: %q, %v", a, err)
		}
		if len(reported()) != 1 || !strings.Contains(reported()[0].Error(), "writing node state "+path) {
			t.Fatalf("reported %v, want one error with the path", reported())
		}
		if err := os.Remove(blocked); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retryStoreEvery + time.Second)
		synctest.Wait()
		if len(reported()) != 2 || reported()[1] != nil {
			t.Fatalf("reported %v, want the end of the failure", reported())
		}
	})
	if again, _, _ := openStore(t, path); string(again.cache["a"]) != "1" {
		t.Error("the file lacks a value from before it was writable")
	}
}

func TestUnreadableStateIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tailscaled.state")
	const theirs = "not JSON {"
	if err := os.WriteFile(path, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	s, lasts, reported := openStore(t, path)
	s.WriteState("a", []byte("1"))
	if lasts || len(reported()) != 1 {
		t.Errorf("lasts %v, reported %v", lasts, reported())
	}
	if text, _ := os.ReadFile(path); string(text) != theirs {
		t.Errorf("the file is %q now", text)
	}
}

// TestStateOnADiskThatHangs does not call run, as if its first attempt never ended.
func TestStateOnADiskThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tailscaled.state")
	synctest.Test(t, func(t *testing.T) {
		s, _ := openStateStore(fileState(path), func(error) {})
		start := time.Now()
		s.WriteState("a", []byte("1"))
		if took := time.Since(start); took != storeWait {
			t.Errorf("the engine waited %v for its state, want %v", took, storeWait)
		}
		if a, err := s.ReadState("a"); string(a) != "1" || err != nil {
			t.Errorf("reading meanwhile: %q, %v", a, err)
		}
	})
}
