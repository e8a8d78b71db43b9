package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
)

func TestSizingOptions(t *testing.T) {
	o, err := parseOptions([]string{"-group", "sizing"}, t.Output())
	if err != nil || len(o.subjects) != 2*len(sizes) || o.subjects[0].name != "userspace-256" || o.subjects[7].limits != (limits{2, 4096}) {
		t.Errorf("-group sizing has subjects %v, %v", o.subjects, err)
	}
	for _, args := range [][]string{
		{"-group", "sizing,ping"}, {"-group", "sizing", "-cgroup", "1cpu"}, {"-group", "sizing", "-subjects", plain}, {"-group", "sizing", "-stock", "dir"},
		{"-subjects", "userspace-256"},
	} {
		if _, err := parseOptions(args, t.Output()); err == nil {
			t.Errorf("%v are accepted", args)
		}
	}
	if list := sizingTrials(full); len(list) != len(sizingColumns) || len(list[5].rows) != 2 || !list[5].wire || list[4].wire {
		t.Errorf("%d trials for %d columns", len(list), len(sizingColumns))
	}
}

// TestSizingReport: values that the machine limits are marked, and docs/sizing.md has the
// lines of the table.
func TestSizingReport(t *testing.T) {
	list := sizingTrials(full)
	r := newReport(func(trial) int { return 1 }, sizingSubjects(), list)
	set := func(row, subject string, value float64) { r.add(row, subject, 0, value, nil) }
	down, up := list[0].rows[0].name, list[1].rows[0].name
	set(down, "userspace-256", 400)
	set(down+shareOf, "userspace-256", 97)
	set(up, "userspace-256", 410)
	set(up+shareOf, "userspace-256", 80)
	set(fitRow, "userspace-256", 13107)
	set(triedRow, "userspace-256", 60000)
	set(fitRow, "kernel-2048", 60000)
	set(triedRow, "kernel-2048", 60000)
	r.add(down, "kernel-2048", 0, 0, errors.New("it hangs"))
	var b strings.Builder
	if err := r.writeSizing(&b, []string{"a fact"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n| userspace | 0.25 | 0.5 GB | 400 | ≥ 410 | – | – | 13,107 | – |\n",
		"\n| kernel | 2 | 4 GB | failed [1] | – | – | – | ≥ 60,000 | – |\n",
		"\n[1] kernel-2048 failed in 1 of 1 round: it hangs\n", "\n- a fact\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &b)
		}
	}

	text, err := os.ReadFile("../docs/sizing.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "<!-- BEGIN_SIZING -->\n")
	section, _, ok := strings.Cut(section, "<!-- END_SIZING -->")
	first, last := strings.SplitAfterN(section, "\n", 3), strings.SplitAfterN(b.String(), "\n", 3)
	if !ok || first[0] != last[0] || first[1] != last[1] {
		t.Errorf("docs/sizing.md has the table\n%s\nnot that of bench -group sizing:\n%s", section, &b)
	}
	for line := range strings.Lines(b.String()) {
		if cells := strings.SplitN(line, " | ", 4); len(cells) == 4 && !strings.Contains(section, strings.Join(cells[:3], " | ")+" |") {
			t.Errorf("docs/sizing.md has no line of %q", cells[:3])
		}
	}
}

// TestSmokeSizing measures the smallest size for moments, in both of its networks.
func TestSmokeSizing(t *testing.T) {
	netnstest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a first build compiles for minutes
	defer cancel()
	o, err := parseOptions([]string{"-quick", "-group", "sizing", "-rmem-max", "0", "-stream", "500ms",
		"-match", "down, 8 streams|fit|60 ms", "-subjects", "userspace-256,kernel-256"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	o.scale.bulk, o.scale.fitFlows = 500*time.Millisecond, 200
	o.raw = t.TempDir() + "/raw.csv"
	var out bytes.Buffer
	if err := run(ctx, o, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	const n = `[0-9.,]+`
	for _, mode := range []string{"userspace", "kernel"} {
		want := `\| ` + mode + ` \| 0.25 \| 0.5 GB \| (≥ )?` + n + ` \| – \| – \| – \| ≥ 200 \| ` + n + ` \|`
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line matches %s", want)
		}
	}
	if strings.Contains(out.String(), "failed") || t.Failed() {
		t.Errorf("the table:\n%s", &out)
	}
	raw, err := os.ReadFile(o.raw)
	for _, want := range []string{
		`"TCP down, 8 streams: throughput: share of the CPUs",%,userspace-256,1,`, `idle TCP flows that fit: RSS,MiB,kernel-256,1,`,
		`"TCP up, 60 ms, 0.1 % loss",Mbit/s,kernel-256,1,`,
	} {
		if err != nil || !bytes.Contains(raw, []byte("\n"+want)) {
			t.Errorf("raw data lacks %s: %v\n%s", want, err, raw)
		}
	}
}
