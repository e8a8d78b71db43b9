package main

import (
	"context"
	"sync"
	"time"

	"subnetrouter/internal/tailnettest/stock"
)

const (
	watchPause   = 20 * time.Millisecond // between connections
	watchTimeout = time.Second           // of a connection; a lost SYN is retransmitted after that
)

// watch opens connections in sequence.
type watch struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	result watchResult
}

// watchResult holds the outcomes of the connections.
type watchResult struct {
	Answers  map[string]int `json:"answers"` // by text of the answer
	Failures []string       `json:"failures"`
	// GapMS is the longest time between two answers.
	GapMS int64 `json:"gap_ms"`
}

func (w *watch) start(ctx context.Context, node *stock.Client, to string) {
	ctx, w.cancel = context.WithCancel(ctx)
	w.result = watchResult{Answers: map[string]int{}, Failures: []string{}}
	w.done.Go(func() {
		last := time.Now()
		for ctx.Err() == nil {
			one, cancel := context.WithTimeout(ctx, watchTimeout)
			answer, err := get(one, node, to)
			cancel()
			switch {
			case err == nil:
				w.result.Answers[answer]++
				w.result.GapMS = max(w.result.GapMS, time.Since(last).Milliseconds())
				last = time.Now()
			case ctx.Err() == nil:
				w.result.Failures = append(w.result.Failures, err.Error())
			}
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
		w.result.GapMS = max(w.result.GapMS, time.Since(last).Milliseconds())
	})
}

func (w *watch) stop() watchResult {
	w.cancel()
	w.done.Wait()
	return w.result
}
