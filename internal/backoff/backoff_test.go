package backoff

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	b := Backoff{First: time.Second, Max: 5 * time.Second}
	for range 2 {
		for i, want := range []time.Duration{1, 2, 4, 5, 5} {
			if got := b.Next(); got != want*time.Second {
				t.Errorf("pause %d: got %v, want %v", i, got, want*time.Second)
			}
		}
		b.Reset()
	}
}

func TestJitter(t *testing.T) {
	const d, lowest, highest = time.Minute, 54 * time.Second, 66 * time.Second
	least, most := d, d
	for range 1000 {
		got := Jitter(d, Interval)
		if got < lowest || got >= highest {
			t.Fatalf("%v is not within a tenth of %v", got, d)
		}
		least, most = min(least, got), max(most, got)
	}
	if least > 55*time.Second || most < 65*time.Second {
		t.Errorf("all between %v and %v", least, most)
	}
	for _, d := range []time.Duration{0, 1} {
		if got := Jitter(d, Retry); got != d {
			t.Errorf("Jitter(%v) = %v", d, got)
		}
	}
}
