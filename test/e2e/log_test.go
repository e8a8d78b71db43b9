package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/testwait"
)

// updateVar, if set, makes these tests rewrite their golden files.
const updateVar = "UPDATE_GOLDEN"

// differing matches values that differ between runs or machines.
var differing = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`"time":"[^"]+",`), ``},
	{regexp.MustCompile(`"(took|waited|retry_in)":"[^"]+"`), `"$1":"DURATION"`},
	{regexp.MustCompile(`"(version|tailscale)":"[^"]+"`), `"$1":"VERSION"`},
	{regexp.MustCompile(`("mode":"userspace","why":)"[^"]+"`), `$1"REASON"`},
	{regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z`), `TIME`},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), `UUID`},
	{regexp.MustCompile(`\b(vpc|subnet|eni|vpc-cidr-assoc)-[0-9a-f]{8,}`), `$1-ID`},
	{regexp.MustCompile(`(task/[^/"]+/)[0-9a-f]{32}`), `${1}ID`},
	{regexp.MustCompile(`"[0-9a-f]{4}:[0-9a-f]{1,4}:[0-9a-f:]+::/56`), `"VPC6::/56`},
	{regexp.MustCompile(`/tmp/e2e-shared-[0-9]+`), `DIR`},
	{regexp.MustCompile(`(192\.168\.77\.10|100\.64\.[0-9]+\.[0-9]+|192\.168\.77\.20|tcp laptop):[0-9]+`), `$1:PORT`},
	{regexp.MustCompile(`100\.64\.[0-9]+\.[0-9]+`), `TAILNET4`},
	{regexp.MustCompile(`fd7a:[0-9a-f:]+`), `TAILNET6`},
}

// golden compares the log of the process with a file, in any order, since concurrent parts
// log in any order; [router.follows] checks the order that matters. A repeated line is an
// error: the log suppresses them for longer than these tests take.
func (r *router) golden(name string) {
	r.t.Helper()
	var lines []string
	for line := range strings.Lines(r.out.String()) {
		for _, d := range differing {
			line = d.what.ReplaceAllString(line, d.as)
		}
		lines = append(lines, line)
	}
	for i, line := range lines {
		if slices.Contains(lines[:i], line) {
			r.t.Errorf("%s: logged twice: %s", name, line)
		}
	}
	got := strings.Join(lines, "")
	file := filepath.Join("testdata", name+".log")
	if os.Getenv(updateVar) != "" {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			r.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	wanted := slices.Collect(strings.Lines(string(want)))
	slices.Sort(lines)
	slices.Sort(wanted)
	if !slices.Equal(lines, wanted) {
		r.t.Errorf("the log differs from %s (%s=1 rewrites it):\n%s", file, updateVar, got)
	}
}

// follows fails unless the log has the messages in this order.
func (r *router) follows(messages ...string) {
	r.t.Helper()
	rest := r.out.String()
	for _, m := range messages {
		_, after, ok := strings.Cut(rest, `"msg":"`+m)
		if !ok {
			r.t.Errorf("the log lacks %q in its place", m)
			return
		}
		rest = after
	}
}

// TestLogOfAStart checks the log of a start and a stop.
func TestLogOfAStart(t *testing.T) {
	w := newWorld(t, worldOptions{})
	if _, ours := w.testControl(); !ours {
		t.Skip("the golden file is for tailnettest's control server")
	}
	r := w.startRouter(routerOptions{})
	r.awaitLog("router ready")
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	r.follows("router starting", "task metadata read", "routes advertised", "router ready", "draining", "routes handed over", "drained")
	r.golden("start")
}

// TestLogOfAFailure denies access to the secret, then grants it.
func TestLogOfAFailure(t *testing.T) {
	w := newWorld(t, worldOptions{})
	if _, ours := w.testControl(); !ours {
		t.Skip("the golden file is for tailnettest's control server")
	}
	server, err := awstest.NewServer(selfIP+":0", w.aws)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.Fail("secretsmanager:GetSecretValue", awstest.Denied("secretsmanager:GetSecretValue", "*"))
	r := w.startRouter(routerOptions{env: map[string]string{"AWS_ENDPOINT_URL": server.URL(), "ROUTER_BOOT_TIMEOUT": "1s"}})
	r.awaitLog("not ready within the boot timeout")
	// It retries, and must not log the failure again.
	before := len(server.Calls())
	testwait.Until(t, "two more attempts", func() error {
		if n := len(server.Calls()) - before; n < 2 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	server.Fail("secretsmanager:GetSecretValue", awstest.Failure{})
	r.awaitLog("router ready")
	r.stop()
	r.follows("joining the tailnet failed", "not ready within the boot timeout", "credential read", "routes advertised", "router ready")
	r.golden("failure")
}

// TestLogOfAHandOver checks the logs of both routers of a deploy, with a flow that outlives
// it.
func TestLogOfAHandOver(t *testing.T) {
	w, old, next := twoRouters(t, time.Second, map[string]string{"ROUTER_DRAIN_TIMEOUT": "6s"}, sameKey)
	if _, ours := w.testControl(); !ours {
		t.Skip("the golden files are for tailnettest's control server")
	}
	old.awaitLog("router ready")
	next.awaitLog("router ready")
	held := must(w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, echoPort)))
	defer held.Close()
	old.cmd.Process.Signal(syscall.SIGTERM)
	if code := old.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	next.awaitLog("peer router has drained")
	old.follows("router ready", "draining", "routes handed over", "flows cut", "drained")
	next.follows("router ready", "peer router is draining", "peer router has drained")
	old.golden("handover-old")
	next.golden("handover-next")
}

// TestFlowLogQueries: a line of the real flow log has each field that the queries of
// docs/operations.md use.
func TestFlowLogQueries(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_FLOW_LOG": "on"}})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	if out, code := c.sh("curl", "-fsS", "-o", "/dev/null", "http://"+dbHost+"/?bytes=1000"); code != 0 {
		t.Fatalf("curl: %s", out)
	}
	r.awaitLog(`"msg":"flow"`)
	var line map[string]any
	for l := range strings.Lines(r.out.String()) {
		if strings.Contains(l, `"msg":"flow"`) {
			if err := json.Unmarshal([]byte(l), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	if line["node"] != "laptop" || line["target"] != dbHost+":80" || line["to_tailnet_bytes"].(float64) < 1000 {
		t.Errorf("the flow is %v", line)
	}
	text := must(os.ReadFile("../../docs/operations.md"))
	queries := regexp.MustCompile("(?s)```\n(filter msg = \"flow\".*?)```").FindAllStringSubmatch(string(text), -1)
	if len(queries) < 2 {
		t.Fatalf("%d queries", len(queries))
	}
	for _, q := range queries {
		if unknown := unknownFields(q[1], line); len(unknown) > 0 {
			t.Errorf("the flow log has no field %q, which this query uses:\n%s", unknown, q[1])
		}
	}
	if got := unknownFields("filter msg = \"flow\" | stats sum(bytes_in) as bytes by nodes", line); fmt.Sprint(got) != "[bytes_in nodes]" {
		t.Errorf("this test finds %q", got)
	}
}

// unknownFields returns the words of a query that are neither keywords, nor names that it
// defines, nor fields of the line.
func unknownFields(query string, line map[string]any) (unknown []string) {
	query = regexp.MustCompile(`"[^"]*"`).ReplaceAllString(query, "")
	known := strings.Fields("filter and or like stats count sum max as by sort desc asc limit")
	for _, m := range regexp.MustCompile(`\bas (\w+)`).FindAllStringSubmatch(query, -1) {
		known = append(known, m[1])
	}
	for _, word := range regexp.MustCompile(`[a-z_]\w*`).FindAllString(query, -1) {
		if _, ok := line[word]; !ok && !slices.Contains(known, word) {
			unknown = append(unknown, word)
		}
	}
	return unknown
}
