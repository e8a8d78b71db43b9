package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// buffer is a bytes.Buffer for concurrent use: timers write to it, too.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

// plain returns a handler that omits the time, so that the text can be compared.
func plain(out *buffer) slog.Handler {
	return slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

func TestRepeatedLinesAreSuppressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		log := slog.New(New(plain(&out)).Handler())
		expect := func(step, want string) {
			t.Helper()
			synctest.Wait()
			if got := out.String(); got != want {
				t.Errorf("%s:\n%swant\n%s", step, got, want)
			}
			out.Reset()
		}
		refused := func(id string, wait time.Duration) {
			log.Error("joining failed", "err", errors.New("AccessDenied, request "+id), "retry_in", wait.String(), "tries", 3)
		}
		refused("0f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e", time.Second)
		refused("1f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e", 2*time.Second)
		refused("2f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e", 4*time.Second)
		expect("three failures with one cause", `level=ERROR msg="joining failed" err="AccessDenied, request 0f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e" retry_in=1s tries=3`+"\n")

		log.Error("joining failed", "err", errors.New("no such secret"))
		log.With("part", "b").Error("joining failed", "err", errors.New("no such secret"))
		log.Info("route added", "prefix", "10.0.0.0/16")
		log.Info("route added", "prefix", "10.1.0.0/16")
		expect("other causes", `level=ERROR msg="joining failed" err="no such secret"
level=ERROR msg="joining failed" part=b err="no such secret"
level=INFO msg="route added" prefix=10.0.0.0/16
level=INFO msg="route added" prefix=10.1.0.0/16
`)
		time.Sleep(repeatEvery)
		expect("the end of the minute", `level=ERROR msg="joining failed" err="AccessDenied, request 2f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e" retry_in=4s tries=3 repeated=2`+"\n")
		refused("3f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e", 8*time.Second)
		expect("the minute after", "")
		time.Sleep(repeatEvery)
		expect("its end", `level=ERROR msg="joining failed" err="AccessDenied, request 3f3c9a7e-7d3a-4b0e-9a53-0f1a2b3c4d5e" retry_in=8s tries=3 repeated=1`+"\n")
		time.Sleep(repeatEvery)
		log.Info("route added", "prefix", "10.0.0.0/16")
		expect("after a minute without lines", "level=INFO msg=\"route added\" prefix=10.0.0.0/16\n")
		time.Sleep(repeatEvery)
	})
}

// TestNeverMoreThanOnceAMinute runs a loop that fails each second for ten minutes.
func TestNeverMoreThanOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		log := slog.New(New(plain(&out)).Handler())
		for range 600 {
			log.Warn("probe failed", "target", "10.0.3.4:5432", "err", errors.New("refused"))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := strings.Count(out.String(), "\n"); n < 9 || n > 11 {
			t.Errorf("%d lines in ten minutes, want 9 to 11", n)
		}
		time.Sleep(2 * repeatEvery)
	})
}

func TestDebugAndPlainAreNotSuppressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out buffer
		events := New(plain(&out))
		for range 3 {
			slog.New(events.Handler()).Debug("engine", "text", "same")
			slog.New(events.Plain()).Info("flow", "target", "same")
		}
		if n := strings.Count(out.String(), "\n"); n != 6 {
			t.Errorf("%d lines, want 6:\n%s", n, out.String())
		}
		if e := events.Events(); len(e) != 0 {
			t.Errorf("events %v, want none", e)
		}
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := New(slog.DiscardHandler)
		log := slog.New(handler{log: events, next: plain(new(buffer))}).WithGroup("node").With("name", "edge")
		for i := range maxEvents + 7 {
			log.Info("counted", "what", fmt.Sprint("thing ", i))
		}
		got := events.Events()
		if len(got) != maxEvents {
			t.Fatalf("%d events, want the last %d", len(got), maxEvents)
		}
		for i, e := range got {
			n := maxEvents + 6 - i
			if e.Message != "counted" || strings.Join(e.Detail, " ") != fmt.Sprintf("node.name=edge node.what=thing %d", n) || e.Time.IsZero() {
				t.Errorf("event %d is %v, want thing %d", i, e, n)
			}
		}
		time.Sleep(repeatEvery)
	})
}
