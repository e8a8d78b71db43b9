package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"subnetrouter/cmd/sandbox/sandboxed"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/tailnettest"
)

func TestMain(m *testing.M) {
	tailnettest.Isolate()
	sandboxed.OnLoopback()
	os.Exit(m.Run())
}

// play runs `sandbox --once` in a temporary folder of its own, and wants
// nothing to be left in it.
func play(t *testing.T, timeout time.Duration, alter func(*world)) (code int, out string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the router")
	}
	t.Setenv("TMPDIR", t.TempDir())
	var buf bytes.Buffer
	code = run(t.Context(), options{once: true, timeout: timeout, out: &buf, alter: alter})
	left, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), "sandbox-") {
			t.Errorf("left behind: %s", f.Name())
		}
	}
	return code, buf.String()
}

func TestOnce(t *testing.T) {
	code, out := play(t, time.Minute, nil)
	if code != 0 {
		t.Fatalf("exit code %d, want 0; output:\n%s", code, out)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colour where there is no terminal")
	}
	if strings.Contains(out, "tskey-") {
		t.Error("the output shows a credential")
	}
	rest := out
	for _, want := range []string{
		`✓ .* build +the router's binary: /`,
		`✓ .* world +control server at http://127\.0\.0\.1:\d+, with DERP and STUN`,
		`✓ .* client +laptop is in the tailnet as 100\.64\.0\.\d`,
		`✓ .* router +process \d+, told no more than this:`,
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
		`logged out: control knows it no more`,
		`exited with 0 after `,
	} {
		at := regexp.MustCompile(want).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("no %q in the rest of the output:\n%s", want, rest)
		}
		rest = rest[at[1]:]
	}
}

func TestBrokenWorld(t *testing.T) {
	// Far more than the step needs before it, and the run always takes all of it.
	const timeout = 4 * time.Second
	for _, tt := range []struct {
		name  string
		alter func(*world)
		want  []string
	}{{
		name: "no secret",
		alter: func(w *world) {
			w.aws.Update(func(account *awstest.World) { account.Secrets = nil })
		},
		want: []string{
			`✗ .* credential +not within 4s: awaiting the credential\n`,
			`The router says: credential_missing: .*tailscale/auth-key`,
			`The end of the router's log:\n.*│ \{`,
		},
	}, {
		name: "VPCs must not be described",
		alter: func(w *world) {
			w.aws.Fail("ec2:DescribeVpcs", awstest.Denied("ec2:DescribeVpcs", ""))
		},
		want: []string{
			`✗ .* discovery +not within 4s: awaiting the look-up of the routes\n`,
			`The router says: routes_unknown: .*ec2:DescribeVpcs`,
			`The end of the router's log:\n.*│ \{`,
		},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			code, out := play(t, timeout, tt.alter)
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range tt.want {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no %q in the output:\n%s", want, out)
				}
			}
		})
	}
}
