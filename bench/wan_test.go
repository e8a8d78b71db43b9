package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
	"subnetrouter/internal/netnstest"
)

// TestWanRows: rows have distinct names, random ones have more rounds than others, and
// -rounds overrides both.
func TestWanRows(t *testing.T) {
	names := map[string]bool{}
	var o options
	o.scale = full
	for _, trial := range wanTrials(full) {
		for _, row := range trial.rows {
			if names[row.name] {
				t.Errorf("two rows are called %q", row.name)
			}
			names[row.name] = true
			random := regexp.MustCompile(` 0\.1 %| 1 %`).MatchString(row.name)
			if want := map[bool]int{true: 9, false: 5}[random]; o.roundsOf(trial) != want {
				t.Errorf("%q has %d rounds, want %d", row.name, o.roundsOf(trial), want)
			}
		}
	}
	for _, want := range []string{
		"TCP down, 20 ms, 0 % loss", "TCP up, 60 ms, 0.1 % loss", "TCP down, 150 ms, 1 % loss", "TCP up, 60 ms, 0.1 % loss, 8 streams",
		"file of 2 MB down, 60 ms, 0.1 % loss", "TCP down, 60 ms, beside 1,000 idle connections", "TCP up, 60 ms, 0.25 vCPU",
	} {
		if !names[want] {
			t.Errorf("no row is called %q", want)
		}
	}
	o.rounds = 2
	if got := o.roundsOf(wanTrials(full)[0]); got != 2 {
		t.Errorf("-rounds 2 gives %d rounds", got)
	}
}

func TestGroupOption(t *testing.T) {
	subjectsOf := func(o options) (names []string) {
		for _, s := range o.subjects {
			names = append(names, s.name)
		}
		return names
	}
	o, err := parseOptions(nil, t.Output())
	if err != nil || o.wan() || slices.Contains(subjectsOf(o), plainBBR) || len(o.groups) < 5 {
		t.Errorf("by default groups are %v and subjects %v, %v", o.groups, subjectsOf(o), err)
	}
	o, err = parseOptions([]string{"-group", "wan", "-stream", "3s"}, t.Output())
	want := []string{"ours-userspace", "stock-userspace", "stock-kernel", plain, plainBBR}
	if err != nil || !slices.Equal(subjectsOf(o), want) || o.scale.stream != 3*time.Second {
		t.Errorf("-group wan has subjects %v and streams of %v, %v", subjectsOf(o), o.scale.stream, err)
	}
	for group, want := range map[string][]string{
		accessGroup: {"ours-userspace", oursReport, oursGrants}, proxyGroup: {"ours-userspace", "stock-userspace"},
	} {
		if o, err = parseOptions([]string{"-group", group}, t.Output()); err != nil || !slices.Equal(subjectsOf(o), want) {
			t.Errorf("-group %s has subjects %v, %v", group, subjectsOf(o), err)
		}
	}
	o, err = parseOptions([]string{"-subjects", plain, "-stock", "dir"}, t.Output())
	if err != nil || !slices.Equal(subjectsOf(o), []string{plain, otherStock}) {
		t.Errorf("-stock has subjects %v, %v", subjectsOf(o), err)
	}
	for _, args := range [][]string{
		{"-group", "wan,ping"}, {"-group", "access,ping"}, {"-subjects", oursGrants}, {"-group", "speed"}, {"-rows", "ping"}, {"-subjects", plainBBR}, {"-group", "wan", "-rate", "0"},
	} {
		if _, err := parseOptions(args, t.Output()); err == nil {
			t.Errorf("%v are accepted", args)
		}
	}
}

func TestReportOfUnequalRounds(t *testing.T) {
	list := []trial{
		{rows: []row{{name: "clean", unit: "Mbit/s", minMax: true}}, rounds: 1},
		{rows: []row{{name: "lossy", unit: "Mbit/s", minMax: true}}, rounds: 3},
	}
	r := newReport(func(t trial) int { return t.rounds }, subjects[:2], list)
	r.add("clean", "ours-userspace", 0, 200, nil)
	for round, v := range []float64{5, 30, 10} {
		r.add("lossy", "ours-userspace", round, v, nil)
		r.add("lossy", "stock-userspace", round, 10, nil)
	}
	r.add("clean", "stock-userspace", 0, 0, errors.New("it hangs"))
	var b, raw bytes.Buffer
	if err := errors.Join(r.write(&b, nil), r.encodeRaw(&raw, []string{"a fact"})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n- 1 round, and 3 of lossy; ",
		"\n| measure | unit | ours-userspace | stock-userspace | ours/stock, userspace |\n",
		"\n| clean | Mbit/s | 200 | failed [1] | – |\n",
		"\n| lossy | Mbit/s | 10.0 (5.00–30.0) | 10.0 (10.0–10.0) | 1.00 (0.50–3.00) |\n",
		"\n[1] stock-userspace failed in 1 of 1 round: it hangs\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &b)
		}
	}
	const want = `# a fact
measure,unit,subject,round,value,failure
clean,Mbit/s,ours-userspace,1,200,
clean,Mbit/s,stock-userspace,,,it hangs
lossy,Mbit/s,ours-userspace,1,5,
lossy,Mbit/s,ours-userspace,2,30,
lossy,Mbit/s,ours-userspace,3,10,
lossy,Mbit/s,stock-userspace,1,10,
lossy,Mbit/s,stock-userspace,2,10,
lossy,Mbit/s,stock-userspace,3,10,
`
	if raw.String() != want {
		t.Errorf("raw data is\n%s\nwant\n%s", &raw, want)
	}
}

// TestFetch transfers files over loopback, in a namespace with the servers' ports.
func TestFetch(t *testing.T) {
	host := netnstest.New(t).Host("files")
	err := host.Do(func() error {
		_, err := target.Start("127.0.0.1")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []load.Fetch{
		{Address: net.JoinHostPort("127.0.0.1", "5006"), Size: 300_001, Count: 2, Each: 10 * time.Second},
		{Address: net.JoinHostPort("127.0.0.1", "5001"), Size: 300_001, Count: 2, Each: 10 * time.Second, Up: true},
	} {
		var r load.Result
		err := host.Do(func() (err error) {
			r, err = f.Run(t.Context())
			return err
		})
		if err != nil || r.Done != 2 || r.Failed > 0 || r.Bytes != 2*f.Size || r.P50 <= 0 {
			t.Errorf("%+v gave %+v, %v", f, r, err)
		}
	}
}

// TestSmokeWan runs three rows of group wan for moments, over the wire.
func TestSmokeWan(t *testing.T) {
	netnstest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a first build compiles for minutes
	defer cancel()
	o, err := parseOptions([]string{"-quick", "-group", "wan", "-rmem-max", "0", "-stream", "500ms",
		"-match", "20 ms, 1 %|2 MB down, 60 ms, 0 %", "-subjects", "ours-userspace,plain"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	o.raw = t.TempDir() + "/raw.csv"
	var out bytes.Buffer
	if err := run(ctx, o, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	const n = `[0-9.,]+`
	for _, want := range []string{
		`\| TCP down, 20 ms, 1 % loss \| Mbit/s \| ` + n + ` \| ` + n + ` \|`,
		`\| TCP up, 20 ms, 1 % loss \| Mbit/s \| ` + n + ` \| ` + n + ` \|`,
		`\| file of 2 MB down, 60 ms, 0 % loss \| s \| ` + n + ` \| ` + n + ` \|`,
		`- The wire carried ` + n + ` frames`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line matches %s", want)
		}
	}
	if strings.Contains(out.String(), "failed") || t.Failed() {
		t.Errorf("the table:\n%s", &out)
	}
	if raw, err := os.ReadFile(o.raw); err != nil || bytes.Count(raw, []byte(",plain,1,")) != 4 {
		t.Errorf("raw data is %s, %v; want four values of plain", raw, err)
	}
}
