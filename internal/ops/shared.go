package ops

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// How long an answer is shared: costShare times as long as it took to make, so that
// those who ask from other hosts cost a tenth of a processor at most.
const (
	costShare   = 10
	sharedLeast = 100 * time.Millisecond
	sharedMost  = 5 * time.Second
)

// shared makes a value for all who ask at about the same time. One is made at a time.
type shared[T any] struct {
	make func() T

	mu    sync.Mutex
	value T
	until time.Time
}

// get returns a value that may have been made for another, or, if fresh, one made now.
func (s *shared[T]) get(fresh bool) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := time.Now()
	if !fresh && start.Before(s.until) {
		return s.value
	}
	s.value = s.make()
	took := time.Since(start)
	s.until = time.Now().Add(min(max(took*costShare, sharedLeast), sharedMost))
	return s.value
}

type gathered struct {
	families []*dto.MetricFamily
	err      error
}

// gatherer gathers from another one by way of shared.
type gatherer struct {
	from  *shared[gathered]
	fresh bool
}

func shareGatherer(g prometheus.Gatherer) *shared[gathered] {
	return &shared[gathered]{make: func() gathered {
		families, err := g.Gather()
		return gathered{families, err}
	}}
}

// Gather implements [prometheus.Gatherer].
func (g gatherer) Gather() ([]*dto.MetricFamily, error) {
	got := g.from.get(g.fresh)
	return got.families, got.err
}
