package forward

import "sync"

// eachStep is how many entries of a table are visited before its lock is let go for a
// moment: packet delivery takes the same lock, and must not wait while a table of
// 100,000 flows is walked.
const eachStep = 512

// each calls visit for the entries of a table that mu guards. It holds mu meanwhile, but
// not all the time: entries that are added or deleted during the walk may be visited or
// not.
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
