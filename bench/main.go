// Command bench compares the router with the programs of the official image and with
// plain kernel routing, on one machine, in network namespaces without Internet access.
// docs/benchmarks.md describes its groups of rows.
// It needs root, iproute2 and Linux, and writes a Markdown table.
//
// Every measurement starts its own router in a new namespace, and no other router runs
// at the time. So no figure includes the load of another subject or the effects of
// earlier measurements (memory returned late, connections in TIME-WAIT). The subjects
// alternate within each measurement, so that a slow minute of the machine affects all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"subnetrouter/internal/tailnettest"

	"golang.org/x/sys/unix"
)

func main() {
	if playRole(os.Args) {
		return
	}
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	scale    scale
	rounds   int // 0: as each trial has it
	groups   []string
	match    *regexp.Regexp
	subjects []subject
	limits   limits
	files    uint64
	approve  tailnettest.ApproveWhen
	router   string // "": built from this checkout
	against  string // another router, to compare with; "": none
	stock    string // a folder with another version of the stock programs; "": none
	out      string
	raw      string

	// The rest is for trials over a wire only.
	rate    float64 // of the wire, Mbit/s
	rmemMax int     // net.core.rmem_max, bytes; 0: as the machine has it
	derp    bool    // the client has no UDP
}

func (o options) wan() bool    { return slices.Contains(o.groups, wanGroup) }
func (o options) access() bool { return slices.Contains(o.groups, accessGroup) }
func (o options) sizing() bool { return slices.Contains(o.groups, sizingGroup) }

// roundsOf returns the number of rounds that a trial takes part in.
func (o options) roundsOf(t trial) int {
	switch {
	case o.rounds > 0:
		return o.rounds
	case t.rounds > 0:
		return t.rounds
	default:
		return o.scale.rounds
	}
}

func parseOptions(args []string, stderr io.Writer) (o options, err error) {
	var names []string
	for _, s := range subjects {
		names = append(names, s.name)
	}
	for _, s := range sizingSubjects() {
		names = append(names, s.name)
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	group := f.String("group", strings.Join(defaultGroups(), ","), "groups of rows to measure; or "+wanGroup+": rows over a wire with delay and loss, which take hours; or "+sizingGroup+": the capacity of Fargate's sizes, which takes an hour; or "+accessGroup+": new flows with ROUTER_ACCESS")
	match := f.String("match", "", "measure only trials with a row that matches this `regexp`")
	chosen := f.String("subjects", "", "subjects to measure, of "+strings.Join(names, ",")+" (default those of the groups)")
	isQuick := f.Bool("quick", false, "measure one short round")
	f.IntVar(&o.rounds, "rounds", 0, "number of rounds (default 3, in group wan 5, or 9 with loss; with -quick 1)")
	cgroups := f.String("cgroup", "", "limits for every router, such as 0.25cpu,512MiB")
	f.Uint64Var(&o.files, "files", 0, "limit of open files per process (default 20000, in group "+sizingGroup+" that of a task, 65536)")
	approve := f.String("approve", string(tailnettest.WhenReachable), "when control approves routes: when-reachable or at-once")
	hangup := f.Duration("hangup", 0, "duration of the trial in which servers close first (default 6s, with -quick 3s)")
	f.StringVar(&o.router, "router", "", "a router `binary` instead of this checkout's")
	f.StringVar(&o.against, "against", "", "another router `binary` to compare with, in userspace mode, such as one from before a change")
	stream := f.Duration("stream", 0, "duration of a stream in group wan (default 20s, with -quick 4s)")
	f.Float64Var(&o.rate, "rate", 300, "rate of the wire in group wan, in Mbit/s")
	f.IntVar(&o.rmemMax, "rmem-max", 212992, "net.core.rmem_max of the machine while group wan runs, in bytes; 0: unchanged")
	f.BoolVar(&o.derp, "derp", false, "the client of group wan has no UDP, so that its packets go by way of DERP")
	f.StringVar(&o.raw, "raw", "", "`file` to write every value to, as CSV")
	f.StringVar(&o.stock, "stock", "", "a `folder` with containerboot, tailscaled and tailscale of another version, to compare with in userspace mode")
	f.StringVar(&o.out, "o", "", "`file` to write the table to, besides standard output")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("reading arguments: unexpected argument %q; bench has only flags", f.Arg(0))
	}
	o.scale = full
	if *isQuick {
		o.scale = quick
	}
	if *hangup > 0 {
		o.scale.hangup = *hangup
	}
	if *stream > 0 {
		o.scale.stream = *stream
	}
	if o.groups, err = choose("-group", *group, groups()); err != nil {
		return o, err
	}
	if (o.wan() || o.sizing() || o.access()) && len(o.groups) > 1 {
		return o, fmt.Errorf("reading -group: %s, %s and %s have networks and subjects of their own; measure each alone", wanGroup, sizingGroup, accessGroup)
	}
	if !(o.rate > 0) {
		return o, fmt.Errorf("reading -rate: %v is not a rate in Mbit/s", o.rate)
	}
	if o.match, err = regexp.Compile(*match); err != nil {
		return o, fmt.Errorf("reading -match: %w", err)
	}
	if *chosen == "" {
		*chosen = strings.Join(defaultSubjects(subjectsOf(o.sizing()), o.groups), ",")
	}
	picked, err := choose("-subjects", *chosen, names)
	if err != nil {
		return o, err
	}
	for _, s := range subjectsOf(o.sizing()) {
		if slices.Contains(picked, s.name) {
			o.subjects = append(o.subjects, s)
		}
	}
	if len(o.subjects) == 0 {
		return o, fmt.Errorf("reading -subjects: group %s has none of %s", *group, *chosen)
	}
	if (slices.Contains(picked, oursReport) || slices.Contains(picked, oursGrants)) && !o.access() {
		return o, fmt.Errorf("reading -subjects: %s and %s are subjects of -group %s only", oursReport, oursGrants, accessGroup)
	}
	if slices.Contains(picked, plainBBR) && !o.wan() {
		return o, fmt.Errorf("reading -subjects: %s is a subject of -group %s only", plainBBR, wanGroup)
	}
	if o.against != "" {
		o.subjects = append(o.subjects, subject{name: againstSubject, start: ours("userspace", "against")})
	}
	if o.stock != "" {
		o.subjects = append(o.subjects, subject{name: otherStock, start: stock("true", otherStock)})
	}
	if o.limits, err = parseLimits(*cgroups); err != nil {
		return o, err
	}
	if o.sizing() && (o.limits != (limits{}) || o.against != "" || o.stock != "") {
		return o, fmt.Errorf("reading flags: -group %s has limits and subjects of its own; remove -cgroup, -against and -stock", sizingGroup)
	}
	if o.files == 0 {
		o.files = 20000
		if o.sizing() {
			o.files = 65536
		}
	}
	o.approve = tailnettest.ApproveWhen(*approve)
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil {
		o.files = min(o.files, now.Max)
	}
	return o, nil
}

func choose(name, text string, known []string) ([]string, error) {
	list := strings.Split(text, ",")
	for _, word := range list {
		if !slices.Contains(known, word) {
			return nil, fmt.Errorf("reading %s: %q is not one of %s", name, word, strings.Join(known, ", "))
		}
	}
	return list, nil
}

// measureOver measures the trials that need a wire, or those that need none, in a network of
// their own: the wire costs processor time and speed even without a delay. It adds to r, and
// returns facts about the network.
func measureOver(ctx context.Context, wire bool, o options, binaries string, all []trial, r *report, logf func(string, ...any)) ([]string, error) {
	list := slices.DeleteFunc(slices.Clone(all), func(t trial) bool { return t.wire != wire })
	if len(list) == 0 || ctx.Err() != nil {
		return nil, nil
	}
	s := newScope(ctx)
	defer s.close()
	logf("building the network")
	w, err := newWorld(s, o, binaries, wire)
	if err != nil {
		return nil, err
	}
	measureAll(ctx, w, o, list, r, logf)
	if wire {
		return w.wireFacts(o), nil
	}
	return nil, nil
}

// run measures and writes the table. If ctx ends early, it writes the rows measured so far.
func run(ctx context.Context, o options, stdout, stderr io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	began := time.Now()
	logf := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6s  %s\n", time.Since(began).Round(time.Second), fmt.Sprintf(format, args...))
	}
	if err := adoptOrphans(); err != nil {
		return err
	}
	s := newScope(ctx)
	defer s.close()
	if o.wan() || o.sizing() {
		if err := prepareMachine(s, o, logf); err != nil {
			return err
		}
	}
	facts := machineFacts(ctx, o)
	binaries, err := buildBinaries(ctx, s, o, logf)
	if err != nil {
		return err
	}
	if o.limits != (limits{}) {
		probe := newScope(ctx)
		_, err := newCgroup(probe, "subnetrouter-bench-probe", o.limits)
		probe.close()
		if err != nil {
			logf("measuring without limits: %v", err)
			facts = append(facts, "Measured without limits: "+err.Error())
			o.limits = limits{}
		}
	}
	var list []trial
	for _, t := range trials(o.scale) {
		if slices.Contains(o.groups, t.group) && slices.ContainsFunc(t.rows, func(r row) bool { return o.match.MatchString(r.name) }) {
			list = append(list, t)
		}
	}
	r := newReport(o.roundsOf, o.subjects, list)
	var failed error
	for _, wire := range []bool{false, true} {
		more, err := measureOver(ctx, wire, o, binaries, list, r, logf)
		if err != nil && len(r.values) == 0 {
			return err
		}
		if err != nil { // the first network's values are worth an hour
			failed = err
			facts = append(facts, "**Incomplete: "+oneLine(err.Error())+"**")
		}
		facts = append(facts, more...)
	}
	facts = append(facts, "Took "+time.Since(began).Round(time.Second).String())
	if ctx.Err() != nil {
		facts = append(facts, "**Interrupted: incomplete**")
	}
	if o.out != "" {
		file, err := os.Create(o.out)
		if err != nil {
			return fmt.Errorf("writing the table: %w", err)
		}
		defer file.Close()
		stdout = io.MultiWriter(stdout, file)
	}
	var rawErr error
	if o.raw != "" {
		rawErr = r.writeRaw(o.raw, facts)
	}
	write := r.write
	if o.sizing() {
		write = r.writeSizing
	}
	return errors.Join(write(stdout, facts), rawErr, failed, context.Cause(ctx))
}
