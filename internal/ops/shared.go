package ops

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// An answer is reused for costShare times the time that it took to compute, within minReuse
// and maxReuse, so that requests from other hosts use about a tenth of a processor at most.
const (
	costShare = 10
	minReuse  = 100 * time.Millisecond
	maxReuse  = 5 * time.Second
)

// shared computes a value for all requests within a short time, never two at once.
type shared[T any] struct {
	make func() T

	mu    sync.Mutex
	value T
	until time.Time
}

// get returns a value that may have been computed for another request or, if fresh, a new one.
func (s *shared[T]) get(fresh bool) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := time.Now()
	if !fresh && start.Before(s.until) {
		return s.value
	}
	s.value = s.make()
	took := time.Since(start)
	s.until = time.Now().Add(min(max(took*costShare, minReuse), maxReuse))
	return s.value
}

type gathered struct {
	families []*dto.MetricFamily
	err      error
}

// gatherer returns the metric families of a shared gatherer.
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
