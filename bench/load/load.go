// Package load is what the benchmark does to a router: bounded in count and
// time, from a client's side, each generator one way to use a network. It knows
// neither routers nor namespaces.
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

// Generator makes load until it is done or ctx ends. An error means that
// nothing was measured; single failures are in the result.
type Generator interface {
	Run(ctx context.Context) (Result, error)
}

// Result is what a generator saw.
type Result struct {
	Done, Failed  int
	Bytes         int64 // that arrived
	Elapsed       time.Duration
	P50, P99, Max time.Duration
	Why           string // the first single failure
	At            time.Time
}

// PerSecond is n in the time that the generator took.
func (r Result) PerSecond(n float64) float64 { return n / r.Elapsed.Seconds() }

var generators = func() map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for _, g := range []Generator{FirstByte{}, Stream{}, Connect{}, Burst{}, Hold{}, DNS{}, Flood{}, Receive{}, Ping{}} {
		m[reflect.TypeOf(g).Name()] = reflect.TypeOf(g)
	}
	return m
}()

type envelope struct {
	Kind string
	Spec json.RawMessage
}

// Encode writes a generator as text, for another process to [Decode].
func Encode(g Generator) (string, error) {
	spec, err := json.Marshal(g)
	if err != nil {
		return "", fmt.Errorf("encoding load: %w", err)
	}
	text, err := json.Marshal(envelope{reflect.TypeOf(g).Name(), spec})
	return string(text), err
}

// Decode reads what [Encode] has written.
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

// notes collects single outcomes from many goroutines.
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
		P50: at(0.5), P99: at(0.99), Max: at(1), Why: n.why,
	}
}

// workers runs n loops of one until the time is over.
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
