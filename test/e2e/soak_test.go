package e2e

import (
	"context"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// soakTime returns the duration of an endurance test: SOAK, or short if it is not set.
func soakTime(t *testing.T, short time.Duration) (length time.Duration, soak bool) {
	t.Helper()
	v := os.Getenv("SOAK")
	if v == "" {
		return short, false
	}
	length, err := time.ParseDuration(v)
	if err != nil || length <= 0 {
		t.Fatalf("SOAK=%s: use a duration such as 10m", v)
	}
	return length, true
}

// TestSoak opens and closes flows of all kinds for 15 s, or as long as SOAK sets (make soak),
// and checks that goroutines, descriptors and memory of the router do not grow.
func TestSoak(t *testing.T) {
	length, _ := soakTime(t, 15*time.Second)
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")

	// UDP flows other than DNS stay open for two minutes: at a higher rate, they would reach
	// the limit.
	const quick, slow = 10 * time.Millisecond, 100 * time.Millisecond
	// No deadline: a dial would fail with it a moment before the context ends.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(length, cancel)
	var flows, broken atomic.Int64
	var workers sync.WaitGroup
	for _, kind := range []struct {
		pause time.Duration
		open  func(context.Context) error
	}{
		{quick, func(ctx context.Context) error { return w.fetch(ctx, dbHost) }},
		{quick, func(ctx context.Context) error { return w.fetch(ctx, w.host6.String()) }},
		{slow, func(ctx context.Context) error { return echoUDP(ctx, w, net.JoinHostPort(dbHost, "7"), 900) }},
		{quick, func(ctx context.Context) error { return w.query(ctx, net.JoinHostPort(secondHost, "53")) }},
		{quick, func(ctx context.Context) error { // a closed port also opens a flow
			if conn, err := w.client.Dial(ctx, "tcp", net.JoinHostPort(dbHost, "81")); err == nil {
				conn.Close()
			}
			return nil
		}},
	} {
		for range 4 {
			workers.Go(func() {
				for ctx.Err() == nil {
					if err := kind.open(ctx); err != nil && ctx.Err() == nil {
						broken.Add(1)
						t.Logf("a flow failed: %v", err)
					}
					flows.Add(1)
					time.Sleep(kind.pause)
				}
			})
		}
	}
	warmUp := length / 3 // pools fill meanwhile, and the first UDP flows become idle
	time.Sleep(warmUp)
	before := r.held()
	workers.Wait()
	after := r.held()
	t.Logf("%d flows in %v: %v; before %+v, after %+v", flows.Load(), length, r.cmd.Process.Pid, before, after)
	if broken.Load() > 0 {
		t.Errorf("%d of %d flows failed", broken.Load(), flows.Load())
	}
	udp := 4 * int(min(length, 2*time.Minute)/slow) // at most this many are not idle
	if after.goroutines > before.goroutines+20 {
		t.Errorf("goroutines grew from %d to %d", before.goroutines, after.goroutines)
	}
	if after.files > before.files+udp {
		t.Errorf("open files grew from %d to %d", before.files, after.files)
	}
	if after.memory > before.memory*2 && after.memory > 100<<20 {
		t.Errorf("memory grew from %d to %d MiB", before.memory>>20, after.memory>>20)
	}
}

// held holds the resources that the process reports.
type held struct{ goroutines, files, memory int }

func (r *router) held() held {
	r.t.Helper()
	_, body := r.get("/metrics")
	value := func(name string) int { return int(r.valueIn(body, name)) }
	return held{value("go_goroutines"), value("process_open_fds"), value("process_resident_memory_bytes")}
}

// metric returns the value of a series, such as name{label="value"}.
func (r *router) metric(series string) float64 {
	r.t.Helper()
	_, body := r.get("/metrics")
	return r.valueIn(body, series)
}

func (r *router) valueIn(metrics, series string) float64 {
	r.t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		r.t.Fatalf("/metrics lacks %s", series)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// fetch sends one request over a new connection.
func (w *world) fetch(ctx context.Context, host string) error {
	conn, err := w.client.Dial(ctx, "tcp", net.JoinHostPort(host, "80"))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.ReadAll(conn)
	return err
}

// query sends one query to a resolver, from a new socket.
func (w *world) query(ctx context.Context, resolver string) error {
	conn, err := w.client.Dial(ctx, "udp", resolver)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A query for db.internal, type A.
	if _, err := conn.Write([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x08internal\x00\x00\x01\x00\x01")); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = conn.Read(make([]byte, 512))
	return err
}
