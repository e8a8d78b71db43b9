package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/internal/netnstest"
)

func TestMain(m *testing.M) {
	if playRole(os.Args) { // the benchmark runs itself in namespaces
		return
	}
	os.Exit(m.Run())
}

// TestSmoke runs the whole benchmark with very little load, from building the programs
// to the table, and checks that no process is left.
func TestSmoke(t *testing.T) {
	netnstest.Require(t)
	if _, err := exec.LookPath("dnsperf"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no dnsperf on this machine: run make tools")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a first build compiles for minutes
	defer cancel()
	o, err := parseOptions([]string{"-quick", "-group", "start,dns,ping,proxy", "-match", "key and routes|kept|^ping|new private names|HTTP proxy, to the tailnet, 8|SOCKS5 proxy, new", "-subjects", "ours-userspace,stock-userspace,plain"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	o.scale.dns, o.scale.bulk, o.scale.connect = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
	o.scale.pings, o.scale.atOnce = 3, 5
	var out bytes.Buffer
	if err := run(ctx, o, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	const n = `[0-9.,]+`
	for _, want := range []string{
		`\| start to first byte, key and routes given \| s \| ` + n + ` \| ` + n + ` \| – \| ` + n + ` \| ≤ 0.8 `,
		`\| DNS, 5 kept sockets: rate \| 1/s \| ` + n + ` \| ` + n + ` \| ` + n + ` \| ` + n + ` \|`,
		`\| DNS, 5 kept sockets: CPU per query \| µs \| ` + n + ` \| ` + n + ` \| – \|`,
		`\| new private names, 1 node, 150/s: p50 \| ms \| ` + n + ` \| ` + n + ` \| ` + n + ` \| ` + n + ` \|`,
		`\| HTTP proxy, to the tailnet, 8 streams: throughput \| Mbit/s \| ` + n + ` \| ` + n + ` \| – \| ` + n + ` \|`,
		`\| SOCKS5 proxy, new connections, 5 at a time: CPU each \| µs \| ` + n + ` \| ` + n + ` \| – \| ` + n + ` \|`,
		`\| ping: p50 \| ms \| ` + n + ` \| ` + n + ` \| ` + n + ` \|`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line matches %s", want)
		}
	}
	if strings.Contains(out.String(), "failed in") || t.Failed() {
		t.Errorf("the table:\n%s", &out)
	}
	if left := family(os.Getpid()); len(left) > 1 {
		t.Errorf("processes are left: %v", left)
	}
}

// TestAccessSmoke does the same with -group access, whose rows have a tailnet and a VPC of their own.
func TestAccessSmoke(t *testing.T) {
	netnstest.Require(t)
	if _, err := exec.LookPath("dnsperf"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no dnsperf on this machine: run make tools")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	o, err := parseOptions([]string{"-quick", "-group", accessGroup, "-subjects", "ours-userspace," + oursGrants}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	o.scale.dns, o.scale.connect = 200*time.Millisecond, 200*time.Millisecond
	var out bytes.Buffer
	if err := run(ctx, o, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	const n = `[0-9.,]+`
	for _, want := range []string{
		`\| new TCP connections, 50 at a time, client closes first: failed \|  \| 0 \| 0 \|`,
		`\| new TCP connections, 50 at a time, client closes first: CPU each \| µs \| ` + n + ` \| ` + n + ` \| ` + n + ` \|`,
		`\| DNS, a new socket each, 50 at a time: lost \| % \| 0 \| 0 \|`,
		`\| DNS, a new socket each, 50 at a time: CPU per query \| µs \| ` + n + ` \| ` + n + ` \| ` + n + ` \|`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line matches %s", want)
		}
	}
	if strings.Contains(out.String(), "failed in") || t.Failed() {
		t.Errorf("the table:\n%s", &out)
	}
	if left := family(os.Getpid()); len(left) > 1 {
		t.Errorf("processes are left: %v", left)
	}
}

func TestLoadSurvivesEncoding(t *testing.T) {
	want := load.Hold{Network: "udp", Addresses: []string{"10.0.3.1:7"}, Count: 3, Rate: 2.5, Each: time.Second}
	text, err := load.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := load.Decode(text)
	if err != nil || !reflect.DeepEqual(got, load.Generator(want)) {
		t.Errorf("Decode(%s) = %+v, %v; want %+v", text, got, err, want)
	}
}
