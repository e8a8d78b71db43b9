package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/doctor"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/testwait"

	"golang.org/x/sys/unix"
)

// command runs another command of the binary in the setting.
func (s *setting) command(t *testing.T, env map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := exec.LookPath("router")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testwait.Context(t), exe, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	for _, set := range []map[string]string{env, s.Env} { // the first counts
		for name, value := range set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

// examine runs `router doctor` and expects the exit code. The output must not contain the
// key.
func (s *setting) examine(t *testing.T, want int, args ...string) string {
	t.Helper()
	cmd := s.command(t, nil, append([]string{"doctor"}, args...)...)
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != want {
		t.Errorf("`router doctor` ended with %d (%v), want %d:\n%s", code, err, want, out)
	}
	if bytes.Contains(out, []byte(routertest.Key)) {
		t.Errorf("`router doctor` shows the auth key:\n%s", out)
	}
	return string(out)
}

// explicitRoutes keeps the doctor from asking a VPC's resolver, which this machine lacks;
// test/e2e has one.
func explicitRoutes(s *setting) { s.Env["ROUTER_ROUTES"] = "10.0.0.0/16,10.8.0.0/16" }

func results(t *testing.T, out string) map[string]doctor.Result {
	t.Helper()
	var report doctor.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := map[string]doctor.Result{}
	for _, r := range report.Results {
		lines[r.Group+"/"+r.Name] = r
	}
	return lines
}

// TestDoctor runs the doctor before a router runs, with a failure, and next to a router.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	explicitRoutes(s)

	before := s.examine(t, exitOK)
	for _, want := range []string{
		"\ncredential\n", "pass  secret", "skip  approval", "0 failed, ", "pass  UDP",
		`{"autoApprovers":{"routes":{"10.0.0.0/16":["tag:subnet-router"],"10.8.0.0/16":["tag:subnet-router"]}}}`,
	} {
		if !strings.Contains(before, want) {
			t.Errorf("before: there is no %q in\n%s", want, before)
		}
	}
	if strings.Contains(before, "\x1b") {
		t.Error("there is colour without a terminal")
	}
	if got := s.AWS.Calls(); len(got) != 1 || got[0] != "secretsmanager:GetSecretValue" {
		t.Errorf("the doctor called %v", got)
	}

	s.AWS.Fail("secretsmanager:GetSecretValue", awstest.Denied("secretsmanager:GetSecretValue", routertest.Secret))
	r := results(t, s.examine(t, exitFailed, "--json"))["credential/secret"]
	if r.State != doctor.Fail || r.Fix != "allow secretsmanager:GetSecretValue on router/auth-key in the task role's policy" {
		t.Errorf("denied: %+v", r)
	}
	s.AWS.Fail("secretsmanager:GetSecretValue", awstest.Failure{})

	c := s.start(t)
	c.awaitReady()
	beside := results(t, s.examine(t, exitOK, "--json"))
	for name, value := range map[string]string{
		"place/router":    " is ready, up ",
		"routes/approval": "2 routes approved, this router is primary for 2",
		"routes/overlaps": "none with each other and 100.64.0.0/10 and 0 routes of other nodes",
		"relays/list":     "regions test",
	} {
		if r := beside[name]; r.State != doctor.Pass || !strings.Contains(r.Value, value) {
			t.Errorf("next to a router: %s is %+v, want pass with %q", name, r, value)
		}
	}
	c.awaitReady() // the doctor did not disturb it
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// TestDoctorRefusesConfiguration expects all problems of a configuration, as from every
// command.
func TestDoctorRefusesConfiguration(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.Env["ROUTER_MODE"], s.Env["ROUTER_UDP_PORT"] = "fast", "high"
	out := s.examine(t, exitConfig)
	if !strings.Contains(out, "ROUTER_MODE") || !strings.Contains(out, "ROUTER_UDP_PORT") {
		t.Errorf("output %s", out)
	}
}

// TestDoctorUnreachable expects a report in time although no server answers.
func TestDoctorUnreachable(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	explicitRoutes(s)
	silent := silentListener(t)
	s.Env["AWS_ENDPOINT_URL"] = "http://" + silent
	s.Env["ROUTER_CONTROL_URL"] = "http://" + silent
	s.Env["ROUTER_LISTEN"] = silent
	s.Env["ECS_CONTAINER_METADATA_URI_V4"] = "http://" + silent + "/v4"
	start := time.Now()
	lines := results(t, s.examine(t, exitFailed, "--json"))
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, name := range []string{"place/task metadata", "credential/secret", "control/reach", "relays/list"} {
		if r := lines[name]; r.State != doctor.Fail || r.Fix == "" || !strings.Contains(r.Value, "no answer in time") {
			t.Errorf("%s is %+v", name, r)
		}
	}
}

// silentListener takes connections and never answers.
func silentListener(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// TestDoctorColour runs the doctor on terminals, with and without NO_COLOR.
func TestDoctorColour(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	explicitRoutes(s)
	for _, tc := range []struct {
		env    map[string]string
		colour bool
	}{
		{map[string]string{"TERM": "xterm"}, true},
		{map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, false},
		{map[string]string{"TERM": "dumb"}, false},
	} {
		master, slave := openTerminal(t)
		cmd := s.command(t, tc.env, "doctor")
		cmd.Stdout, cmd.Stderr = slave, slave
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		out, _ := io.ReadAll(master) // its end is an error, EIO
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", tc.env, err, out)
		}
		if got := bytes.Contains(out, []byte("\x1b[32mpass\x1b[0m")); got != tc.colour || !bytes.Contains(out, []byte("pass")) {
			t.Errorf("%v: colour is %v:\n%s", tc.env, got, out)
		}
	}
}

// openTerminal opens a pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
