// Package load generates the benchmark's traffic on the client's side, bounded in count
// and time. Each generator is one way to use a network. The package does not depend on
// routers or namespaces.
package load

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"
)

// Generator generates load until it is done or ctx ends. An error means that there is no
// measurement; failures of single operations are in the result.
type Generator interface {
	Run(ctx context.Context) (Result, error)
}

// Result is the outcome of a generator.
type Result struct {
	Done, Failed  int
	Bytes         int64 // that arrived
	Elapsed       time.Duration
	P50, P95, P99 time.Duration
	Max           time.Duration
	Fairness      float64 // Jain's index of the streams' bytes: 1 if all have the same
	Why           string  // the first failure of an operation
	At            time.Time
}

// PerSecond returns n divided by the time that the generator took.
func (r Result) PerSecond(n float64) float64 { return n / r.Elapsed.Seconds() }

var generators = func() map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for _, g := range []Generator{FirstByte{}, Stream{}, Connect{}, Burst{}, Hold{}, DNS{}, Flood{}, Receive{}, Ping{}, Fetch{}} {
		m[reflect.TypeOf(g).Name()] = reflect.TypeOf(g)
	}
	return m
}()

type envelope struct {
	Kind string
	Spec json.RawMessage
}

// Encode encodes a generator as text that another process can [Decode].
func Encode(g Generator) (string, error) {
	spec, err := json.Marshal(g)
	if err != nil {
		return "", fmt.Errorf("encoding load: %w", err)
	}
	text, err := json.Marshal(envelope{reflect.TypeOf(g).Name(), spec})
	return string(text), err
}

// Decode decodes text of [Encode].
func Decode(text string) (Generator, error) {
	var e envelope
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, fmt.Errorf("decoding load: %w", err)
	}
	kind, known := generators[e.Kind]
	if !known {
		return nil, fmt.Errorf("decoding load: no generator is called %q", e.Kind)
	}
	v := reflect.New(kind)
	if err := json.Unmarshal(e.Spec, v.Interface()); err != nil {
		return nil, fmt.Errorf("decoding load: %w", err)
	}
	return v.Elem().Interface().(Generator), nil
}

// notes collects the outcomes of operations. Its methods may be called concurrently.
type notes struct {
	mu     sync.Mutex
	took   []time.Duration
	failed int
	why    string
}

func (n *notes) add(took time.Duration, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		n.took = append(n.took, took)
		return
	}
	if n.failed++; n.why == "" {
		n.why = err.Error()
	}
}

func (n *notes) failures() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failed
}

func (n *notes) result(start time.Time) Result {
	elapsed := time.Since(start)
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.took)
	at := func(q float64) time.Duration {
		if len(n.took) == 0 {
			return 0
		}
		return n.took[min(len(n.took)-1, int(q*float64(len(n.took))))]
	}
	return Result{
		Done: len(n.took), Failed: n.failed, Elapsed: elapsed,
		P50: at(0.5), P95: at(0.95), P99: at(0.99), Max: at(1), Why: n.why,
	}
}

// workers calls one in n concurrent loops until the period is over.
func workers(ctx context.Context, n int, period time.Duration, one func(worker, i int)) {
	end := time.Now().Add(period)
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil && time.Now().Before(end); i++ {
				one(w, i)
			}
		})
	}
	wg.Wait()
}
