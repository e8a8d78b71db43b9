package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// valve is an output that blocks until it is opened.
type valve struct {
	buffer
	open chan struct{}
}

func (v *valve) Write(p []byte) (int, error) {
	<-v.open
	return v.buffer.Write(p)
}

func text(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

// TestQueueNeverBlocks fills the queue of a blocked output, and unblocks the output.
func TestQueueNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &valve{open: make(chan struct{})}
		events := Open(out, text)
		plain := slog.New(events.Plain())
		const flood = 3 * queueLines
		start := time.Now()
		for i := range flood {
			plain.Info("flow", "n", i)
		}
		// Lines that an operator has to read still fit.
		log := slog.New(events.Handler())
		for i := range 100 {
			log.Error("joining failed", "target", fmt.Sprint("t", i))
		}
		if time.Since(start) != 0 {
			t.Errorf("logging waited %v", time.Since(start))
		}
		dropped := events.Dropped()
		if dropped == 0 || dropped >= flood {
			t.Errorf("%d of %d lines dropped", dropped, flood)
		}
		if err := events.Plain().Handle(t.Context(), slog.NewRecord(time.Now(), slog.LevelInfo, "flow", 0)); !errors.Is(err, ErrDropped) {
			t.Errorf("writing to a full queue returned %v, want ErrDropped", err)
		}
		events.Flush(time.Second)
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("flushing a blocked output took %v, want 1s", waited)
		}

		close(out.open)
		events.Flush(time.Hour)
		synctest.Wait()
		got := out.String()
		if n := strings.Count(got, "joining failed"); n != 100 {
			t.Errorf("%d lines of high priority, want 100", n)
		}
		if n := strings.Count(got, "msg=flow"); uint64(n) != flood-dropped {
			t.Errorf("%d lines written, want %d", n, flood-dropped)
		}
		if want := fmt.Sprintf(`level=WARN msg="log lines dropped: the output does not keep up" lines=%d total=%d`, dropped+1, dropped+1); !strings.Contains(got, want) {
			t.Errorf("the log lacks %s", want)
		}
		if !events.queue.Close(time.Hour) {
			t.Error("lines are left in the queue")
		}
		time.Sleep(2 * repeatEvery) // until the event log's timers have ended
	})
}

// TestQueueReportsLossAtIntervals uses an output that blocks repeatedly.
func TestQueueReportsLossAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &valve{open: make(chan struct{})}
		var reports []uint64
		q := NewQueue(out, func(n uint64) { reports = append(reports, n) })
		line := bytes.Repeat([]byte("x"), queueBytes/4)
		fill := func() {
			for range 8 {
				q.Write(line)
			}
		}
		for range 5 {
			fill()
			out.open <- struct{}{} // one line is written
			synctest.Wait()
		}
		close(out.open)
		q.Flush(time.Hour)
		synctest.Wait()
		time.Sleep(2 * reportEvery)
		if len(reports) != 1 || reports[0] != q.Dropped() || reports[0] == 0 {
			t.Errorf("reports %v of %d lines dropped, want one of all", reports, q.Dropped())
		}
		out.open = make(chan struct{})
		fill()
		before := q.Dropped()
		close(out.open)
		time.Sleep(2 * reportEvery)
		fill()
		if len(reports) != 2 || reports[0]+reports[1] != before {
			t.Errorf("reports %v, want all of %d", reports, before)
		}
		q.Close(time.Hour)
	})
}
