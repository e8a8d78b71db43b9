package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"subnetrouter/bench/target"
	"subnetrouter/internal/netnstest"
)

// dnsperf is a run of DNS-OARC's dnsperf, an independent client, against the VPC's resolver.
type dnsperf struct {
	names    []string
	rate     int // queries/s
	For      time.Duration
	distinct bool // each name once; otherwise the names in turn until the time is over
}

// lookups are the outcomes of a run. A look-up without an answer within a second, or with another one
// than NOERROR, has failed.
type lookups struct {
	took   []time.Duration // ascending
	failed int
	why    map[string]int // the failed ones by response code, or T for none
	idle   string         // the last lines of a run without any look-up
}

func (l lookups) all() int { return len(l.took) + l.failed }

func (l lookups) at(q float64) time.Duration {
	if len(l.took) == 0 {
		return 0
	}
	return l.took[min(len(l.took)-1, int(q*float64(len(l.took))))]
}

func (l lookups) lost() float64 { return 100 * float64(l.failed) / float64(max(1, l.all())) }

// none returns an error if no look-up succeeded.
func (l lookups) none() error {
	if len(l.took) > 0 {
		return nil
	}
	return fmt.Errorf("none of %d look-ups succeeded: %v %s", l.failed, l.why, l.idle)
}

// runDNSPerf runs d in a host's namespace.
func (w *world) runDNSPerf(ctx context.Context, h *netnstest.Host, d dnsperf) (lookups, error) {
	program, err := exec.LookPath("dnsperf")
	if err != nil {
		return lookups{}, errors.New("no dnsperf on this machine: run make tools")
	}
	dir, err := os.MkdirTemp("", "dnsperf-")
	if err != nil {
		return lookups{}, err
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "names")
	if err := os.WriteFile(data, []byte(strings.Join(d.names, " A\n")+" A\n"), 0o600); err != nil {
		return lookups{}, err
	}
	args := []string{program, "-s", vpcHost.String(), "-p", strconv.Itoa(target.DNSPort), "-d", data, "-v", "-t", "1",
		"-Q", strconv.Itoa(d.rate), "-q", "20000", "-c", "10", "-l", strconv.Itoa(max(1, int(d.For.Seconds())))}
	if d.distinct {
		args = append(args, "-n", "1")
	}
	cmd := h.Command(ctx, args[0], args[1:]...)
	cmd.Env = []string{"PATH=" + systemPath}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return lookups{}, fmt.Errorf("running dnsperf: %w: %s", err, oneLine(string(out)))
	}
	return parseLookups(out), nil
}

// parseLookups reads the lines that dnsperf -v writes for each look-up:
//
//	> NOERROR db.internal A 0.000134
//	> T db.internal A
func parseLookups(out []byte) lookups {
	l := lookups{why: map[string]int{}}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 4 || f[0] != ">" {
			continue
		}
		seconds, err := strconv.ParseFloat(f[len(f)-1], 64)
		if f[1] != "NOERROR" || err != nil {
			l.failed++
			l.why[f[1]]++
			continue
		}
		l.took = append(l.took, time.Duration(seconds*float64(time.Second)))
	}
	slices.Sort(l.took)
	if l.all() == 0 {
		l.idle = oneLine(string(out))
	}
	return l
}

// privateNames returns n names that begin with a prefix. The resolver answers names below metered no
// more often than AWS's.
func privateNames(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d.metered", prefix, i)
	}
	return list
}
