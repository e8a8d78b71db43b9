package probe

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var errDown = errors.New("no answer")

func TestHysteresis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		var changes atomic.Int32
		reg := prometheus.NewRegistry()
		p := New(Config{
			Targets: []string{"db:5432"},
			Connect: func(ctx context.Context, _ string) error {
				if !broken.Load() {
					return nil
				}
				<-ctx.Done() // like a silent host
				return errDown
			},
			Changed:    func() { changes.Add(1) },
			Registerer: reg,
			Logger:     slog.New(slog.DiscardHandler),
		})
		if p.RoundDone() {
			t.Error("RoundDone before the first round")
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		synctest.Wait()
		if !p.RoundDone() || len(p.Failing()) != 0 {
			t.Fatalf("after a good round: RoundDone %v, Failing %v", p.RoundDone(), p.Failing())
		}

		down := func() bool { return len(p.Failing()) == 1 }
		until := func(want bool) (took time.Duration) {
			start := time.Now()
			for down() != want && time.Since(start) < time.Minute {
				time.Sleep(time.Second)
			}
			return time.Since(start)
		}
		broken.Store(true)
		if took := until(true); took < 10*time.Second || took > 30*time.Second {
			t.Errorf("a silent target is down after %v", took)
		}
		if f := p.Failing(); f[0].Target != "db:5432" || !errors.Is(f[0].Err, errDown) {
			t.Errorf("failing: %v", f)
		}
		broken.Store(false)
		time.Sleep(interval + timeout) // one success is no recovery
		if f := p.Failing(); len(f) != 1 || String(f) != "db:5432 (no answer)" {
			t.Errorf("after one success: failing %v", f)
		}
		if took := until(false); took > 20*time.Second {
			t.Errorf("the target was up again after %v", took)
		}

		// One failure among successes changes nothing.
		before := changes.Load()
		broken.Store(true)
		time.Sleep(interval + timeout)
		broken.Store(false)
		time.Sleep(time.Minute)
		if changes.Load() != before || down() {
			t.Errorf("one failure changed the state")
		}
		if got := testutil.ToFloat64(p.failed.WithLabelValues("db:5432")); got < 4 || got > 6 {
			t.Errorf("%v failures counted", got)
		}
		if got := testutil.ToFloat64(p.success.WithLabelValues("db:5432")); got != 1 {
			t.Errorf("success is %v", got)
		}
	})
}

func TestFirstResultCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{
			Targets: []string{"db:5432", "web:80"},
			Connect: func(_ context.Context, target string) error {
				if target == "db:5432" {
					return errDown
				}
				return nil
			},
			Logger: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		synctest.Wait()
		if f := p.Failing(); len(f) != 1 || String(f) != "db:5432 (no answer)" {
			t.Errorf("failing after the first round: %v", f)
		}
	})
}
