package forward

import "sync"

// eachStep is the number of entries that a walk visits before it releases the table's lock
// for a moment: packet delivery takes the same lock, and must not wait for a walk over
// 100,000 flows.
const eachStep = 512

// each calls visit, with mu locked, for the entries of a table that mu guards. It unlocks mu
// every eachStep entries, so that entries added or deleted during the walk may or may not be
// visited.
func each[K comparable, V any](mu *sync.Mutex, table map[K]V, visit func(K, V)) {
	mu.Lock()
	defer mu.Unlock()
	n := 0
	for k, v := range table {
		visit(k, v)
		if n++; n%eachStep == 0 {
			mu.Unlock()
			mu.Lock()
		}
	}
}
