package main

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	nothing := func(context.Context, *measurement) error { return nil }
	r := newReport(func(trial) int { return 3 }, subjects[:2], []trial{{
		rows: []row{{name: "speed", unit: "1/s", maxRatio: 0.5}, {name: "lost"}, {name: "stuck"}, {name: "size", unit: "MiB"}},
		run:  nothing,
	}})
	for round, v := range []float64{100, 120, 110} {
		r.add("speed", "ours-userspace", round, v, nil)
		r.add("speed", "stock-userspace", round, 1000/float64(round+1), nil)
	}
	r.add("lost", "ours-userspace", 0, 0, nil)
	r.add("lost", "stock-userspace", 1, 0, errors.New("it\nhangs"))
	r.add("stuck", "stock-userspace", 2, 0, errors.New("it\nhangs"))
	var b strings.Builder
	if err := r.write(&b, []string{"a fact"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n- a fact\n",
		"| measure | unit | ours-userspace | stock-userspace | ours/stock, userspace | target |\n",
		// The rounds' ratios are 0.1, 0.24 and 0.33.
		"| speed | 1/s | 110 ±9% | 500 ±67% | 0.24 (0.10–0.33) | ≤ 0.5 met |\n",
		"| lost |  | 0 | failed [1] | – |  |\n",
		"| stuck |  | – | failed [1] | – |  |\n",
		"\n[1] stock-userspace failed in 1 of 3 rounds: it hangs\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &b)
		}
	}
	for _, not := range []string{"size", "[2]"} {
		if strings.Contains(b.String(), not) {
			t.Errorf("the report has %q, want one note and no row without a measurement:\n%s", not, &b)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.123: "0.12", 12.34: "12.3", 123.4: "123", 1234567.8: "1,234,568", -0.5: "-0.50"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestParseLimits(t *testing.T) {
	for text, want := range map[string]limits{"": {}, "0.25cpu,512MiB": {0.25, 512}, "1024MiB": {0, 1024}} {
		if got, err := parseLimits(text); err != nil || got != want {
			t.Errorf("parseLimits(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := parseLimits("half"); err == nil || err.Error() != `reading limits "half": "half": want parts like 0.25cpu and 512MiB` {
		t.Errorf("parseLimits(half) gave %v", err)
	}
}
