package forward

import (
	"sync"
	"testing"
	"time"
)

// TestEachReleasesTheLock: a goroutine that waits for a table's lock does not wait for the end
// of a walk.
func TestEachReleasesTheLock(t *testing.T) {
	const steps = 20
	table := map[int]int{}
	for i := range steps * eachStep {
		table[i] = i
	}
	var mu sync.Mutex
	begun, entered := make(chan struct{}), make(chan int, 1)
	visited := 0
	go func() {
		<-begun
		mu.Lock()
		defer mu.Unlock()
		entered <- visited
	}()
	each(&mu, table, func(int, int) {
		if visited == 0 {
			close(begun)
		}
		visited++
		for start := time.Now(); time.Since(start) < 20*time.Microsecond; {
		}
	})
	if visited != len(table) {
		t.Errorf("visited %d entries of %d", visited, len(table))
	}
	if at := <-entered; at == len(table) {
		t.Error("the lock was held during the whole walk")
	}
}
