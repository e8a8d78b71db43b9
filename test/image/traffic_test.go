package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/testwait"
)

// TestPushToTraffic follows a user from `make push` to the next deployment: two tasks with
// the settings of the Terraform module run the image pulled by its digest, one task is
// stopped while a client sends, and a Prometheus that discovered both reports the metrics.
func TestPushToTraffic(t *testing.T) {
	requireDocker(t)
	task := readTaskDefinition(t, "taskdefinition.json")
	engineSocket(t)
	registry := startRegistry(t)

	begin := time.Now()
	image := push(t, registry)
	t.Logf("pushed %s in %v", image.name, since(begin))
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		t.Logf("%s: %d bytes to pull", platform, image.transfers[platform])
		if image.transfers[platform] == 0 {
			t.Errorf("the image lacks %s", platform)
		}
	}
	begin = time.Now()
	docker(t, "pull", "--quiet", image.name)
	t.Cleanup(func() { tryDocker("rmi", "--force", image.name) })
	t.Logf("pulled in %v", since(begin))

	w := newTasks(t)
	label := fmt.Sprintf("subnetrouter.test=%d", os.Getpid())
	prom := w.startPrometheus(t, label)
	run := func(number int) container {
		env := maps.Clone(w.env)
		maps.Copy(env, w.tasks[number])
		name, value, _ := strings.Cut(label, "=")
		return task.run(t, image.name, []string{w.cloudNet, w.vpcNet}, env, map[string]string{name: value})
	}

	begin = time.Now()
	first := run(0)
	testwait.Until(t, "the client to reach the service", func() error {
		_, err := w.through("tcp", w.http(t))
		return err
	})
	t.Logf("traffic %v after the first task's start", since(begin))
	second := run(1)
	for _, r := range []container{first, second} {
		r.ready(t, w)
		r.healthy(t)
	}
	w.asks(t, "udp", net.JoinHostPort(w.service.ip(w.vpcNet), "7"))
	w.asks(t, "ping", w.service.ip(w.vpcNet))

	via := w.cloud.httpClient()
	testwait.Until(t, "Prometheus to scrape both", func() error { return prom.expect(via, "sum(router_ready)", 2) })
	samples, err := prom.value(via, "max(scrape_samples_scraped)")
	if err != nil {
		t.Error(err)
	}
	t.Logf("a scrape has %v samples", samples)

	w.replace(t, first, second)
	testwait.Until(t, "Prometheus to scrape the remaining router", func() error { return prom.expect(via, "sum(router_ready)", 1) })
	for _, query := range []string{"sum(router_primary_routes)", "count(up == 1)"} {
		testwait.Until(t, query+" to be 1", func() error { return prom.expect(via, query, 1) })
	}
	for name, text := range map[string]string{"log": first.logs() + second.logs(), "inspect": first.inspect("{{json .}}")} {
		if strings.Contains(text, authKey[len("tskey-auth-"):]) {
			t.Errorf("the auth key is in a task's %s", name)
		}
	}
}

// newTasks creates a world of two tasks with moto as AWS. moto runs on this machine, at its
// address on the cloud network.
func newTasks(t *testing.T) *world {
	t.Helper()
	w := newNetworks(t)
	gateway := docker(t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", w.cloudNet)
	moto, err := awstest.StartMoto(t.Context(), awstest.MotoOptions{Addr: net.JoinHostPort(gateway, "0")})
	if errors.Is(err, awstest.ErrNoMoto) {
		skipOrFail(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { moto.Close() })
	seeded, err := moto.Seed(t.Context(), awstest.Plan{
		CIDRs:   []netip.Prefix{w.vpc},
		Subnets: halves(w.vpc),
		Secrets: map[string]awstest.Secret{"tailnet/auth-key": {Value: authKey}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.populate(t, "--approve", "--macs", seeded.Interfaces[0].MAC+","+seeded.Interfaces[1].MAC)
	maps.Copy(w.env, moto.Env(seeded))
	return w
}

func halves(p netip.Prefix) []netip.Prefix {
	low, high := p.Addr().As4(), p.Addr().As4()
	high[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4(low), p.Bits()+1),
		netip.PrefixFrom(netip.AddrFrom4(high), p.Bits()+1),
	}
}

func (c container) ready(t *testing.T, w *world) {
	t.Helper()
	testwait.Until(t, "the router to be ready", func() error {
		code, body, err := w.ask(c, "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
}

func (c container) healthy(t *testing.T) {
	t.Helper()
	testwait.Until(t, "the health check to pass", func() error {
		if health := c.inspect("{{.State.Health.Status}}"); health != "healthy" {
			return errors.New(health)
		}
		return nil
	})
}

func (w *world) asks(t *testing.T, how, to string) {
	t.Helper()
	if answer, err := w.through(how, to); err != nil {
		t.Error(err)
	} else {
		t.Logf("%s: %s", how, answer)
	}
}

func (p prometheus) expect(via *http.Client, query string, want float64) error {
	got, err := p.value(via, query)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %v", query, got)
	}
	return err
}

// longestGap bounds the time without an answer during the replacement of a task.
const longestGap = 5 * time.Second

// replace stops the task that forwards the traffic, as ECS does, while the client opens
// connections in sequence.
func (w *world) replace(t *testing.T, first, second container) {
	t.Helper()
	client := w.client.httpClient()
	if _, err := w.watch(client, http.MethodPost, "?to="+w.http(t)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	docker(t, "stop", first.id) // in the stop timeout of the task
	t.Logf("stopped in %v", since(begin))
	if code := first.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}"); code != "0 false" {
		t.Errorf("exit code and OOM flag: %s", code)
	}
	w.asks(t, "tcp", w.http(t))
	seen, err := w.watch(client, http.MethodDelete, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("connections while a task was replaced: %v answered, %d failed %q; longest gap %d ms",
		seen.Answers, len(seen.Failures), seen.Failures, seen.GapMS)
	if gap := time.Duration(seen.GapMS) * time.Millisecond; gap > longestGap {
		t.Errorf("the client received no answer for %v", gap)
	}
	last := "hello from the VPC to " + second.ip(w.vpcNet)
	if !slices.Contains(slices.Collect(maps.Keys(seen.Answers)), last) {
		t.Errorf("no answer %q", last)
	}
}

type watched struct {
	Answers  map[string]int
	Failures []string
	GapMS    int64 `json:"gap_ms"`
}

func (w *world) watch(client *http.Client, method, query string) (seen watched, err error) {
	req, err := http.NewRequest(method, "http://127.0.0.1:8080/watch"+query, nil)
	if err != nil {
		return seen, err
	}
	res, err := client.Do(req)
	if err != nil {
		return seen, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && method == http.MethodDelete {
		err = json.Unmarshal(body, &seen)
	}
	return seen, err
}

func since(begin time.Time) time.Duration { return time.Since(begin).Round(time.Millisecond) }
