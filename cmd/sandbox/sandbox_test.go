package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/cmd/sandbox/sandboxed"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

func TestMain(m *testing.M) {
	tailnettest.Isolate()
	sandboxed.OnLoopback()
	os.Exit(m.Run())
}

// runOnce runs `sandbox --once` with a temporary folder of its own, and fails the test if
// it leaves files there.
func runOnce(ctx context.Context, t *testing.T, timeout time.Duration, out io.Writer, alter func(*world)) (code int) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the router")
	}
	t.Setenv("TMPDIR", t.TempDir())
	code = run(ctx, options{once: true, timeout: timeout, out: out, alter: alter})
	left, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), "sandbox-") {
			t.Errorf("left behind: %s", f.Name())
		}
	}
	return code
}

func TestOnce(t *testing.T) {
	o := new(output)
	code := runOnce(t.Context(), t, testwait.Limit(), o, nil)
	out := o.String()
	if code != 0 {
		t.Fatalf("exit code %d, want 0; output:\n%s", code, out)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("the output has colour, but is not a terminal")
	}
	if strings.Contains(out, "tskey-") {
		t.Error("the output shows a credential")
	}
	rest := out
	for _, want := range []string{
		`✓ .* build +the router's binary: /`,
		`✓ .* world +control server at http://127\.0\.0\.1:\d+, with DERP and STUN`,
		`✓ .* client +laptop is in the tailnet as 100\.64\.0\.\d`,
		`✓ .* router +process \d+, with only this environment:`,
		`ROUTER_AUTH_SECRET=tailscale/auth-key`,
		`✓ .* discovery +task metadata: FARGATE eu-west-1a vpc-\w+ subnet-\w+ sandbox-router`,
		`ec2:DescribeNetworkInterfaces ec2:DescribeVpcs: 10\.0\.0\.0/16 10\.42\.0\.0/16 2001:db8:1234:1a00::/56\n`,
		`✓ .* credential +secretsmanager:GetSecretValue: secret tailscale/auth-key`,
		`✓ .* registration +sandbox-router is in the tailnet as 100\.64\.0\.\d: tag:subnet-router, ephemeral`,
		`✓ .* approval +advertised 10\.0\.0\.0/16 10\.42\.0\.0/16 2001:db8:1234:1a00::/56\n`,
		`approved +10\.0\.0\.0/16 10\.42\.0\.0/16 2001:db8:1234:1a00::/56 for tag:subnet-router`,
		`primary +sandbox-router`,
		`✓ .* readiness `,
		`✓ .* HTTP +laptop → http://10\.0\.3\.4/ → 200 OK "hello from inside the VPC"`,
		`✓ .* HTTP, IPv6 +laptop → http://\[2001:db8:1234:1a03::4\]/ → 200 OK`,
		`✓ .* DNS, UDP +laptop → 10\.0\.0\.2:53 hello\.vpc\.internal\? → 10\.0\.3\.4`,
		`✓ .* SOCKS5 +laptop → http://hello\.vpc\.internal/ → 200 OK`,
		`✓ .* closed port +laptop → 10\.0\.3\.4:81 → refused`,
		`✓ .* SIGTERM +drained in `,
		`logged out: control has removed the node`,
		`exited with 0 after `,
	} {
		at := regexp.MustCompile(want).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("no %q in the rest of the output:\n%s", want, rest)
		}
		rest = rest[at[1]:]
	}
}

// TestBrokenWorld cancels each run once the router reports its reason, because no further
// step can succeed.
func TestBrokenWorld(t *testing.T) {
	for _, tt := range []struct {
		name   string
		alter  func(*world)
		after  string // the last step that succeeds
		reason string
		want   []string
	}{{
		name: "no secret",
		alter: func(w *world) {
			w.aws.Update(func(account *awstest.World) { account.Secrets = nil })
		},
		after: "discovery", reason: "credential_missing",
		want: []string{
			`✗ .* credential +cancelled by the test: waiting for the credential: not in the log\n`,
			`Not ready: credential_missing: .*tailscale/auth-key`,
			`The end of the router's log:\n.*│ \{`,
		},
	}, {
		name: "ec2:DescribeVpcs is denied",
		alter: func(w *world) {
			w.aws.Fail("ec2:DescribeVpcs", awstest.Denied("ec2:DescribeVpcs", ""))
		},
		after: "router", reason: "routes_unknown",
		want: []string{
			`✗ .* discovery +cancelled by the test: waiting for the look-up of the routes: not in /status\n`,
			`Not ready: routes_unknown: .*ec2:DescribeVpcs`,
			`The end of the router's log:\n.*│ \{`,
		},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			out := new(output)
			watched := make(chan error, 1)
			go func() {
				watched <- testwait.For(ctx, tt.reason, func(ctx context.Context) error { return out.reason(ctx, tt.after, tt.reason) })
				cancel(errors.New("cancelled by the test"))
			}()
			if code := runOnce(ctx, t, testwait.Limit(), out, tt.alter); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			cancel(nil)
			if err := <-watched; err != nil {
				t.Error(err)
			}
			for _, want := range tt.want {
				if !regexp.MustCompile(want).MatchString(out.String()) {
					t.Errorf("no %q in the output:\n%s", want, out)
				}
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	out := new(output)
	const want = `✗ .* client +not within 1ms: `
	code := runOnce(t.Context(), t, time.Millisecond, out, nil)
	if !regexp.MustCompile(want).MatchString(out.String()) || code != 1 {
		t.Errorf("exit code %d, want 1; no %q in the output:\n%s", code, want, out)
	}
}

// output collects the printed text. It may be read while a run writes to it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

var listener = regexp.MustCompile(`ROUTER_LISTEN=(\S+)`)

// reason returns nil once the step has succeeded and /readyz has a reason with the code.
func (o *output) reason(ctx context.Context, step, code string) error {
	text := o.String()
	if !regexp.MustCompile(`✓ .* ` + step + ` `).MatchString(text) {
		return fmt.Errorf("step %s has not succeeded", step)
	}
	at := listener.FindStringSubmatch(text)
	if at == nil {
		return errors.New("the output lacks ROUTER_LISTEN")
	}
	var r ops.Readiness
	if err := getJSON(ctx, "http://"+at[1]+"/readyz", &r); err != nil {
		return err
	}
	if !slices.ContainsFunc(r.Reasons, func(why ops.Reason) bool { return string(why.Code) == code }) {
		return fmt.Errorf("the reasons are %v", r.Reasons)
	}
	return nil
}
