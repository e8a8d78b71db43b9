// Package suggest finds the name that a person most likely meant by a misspelt one.
package suggest

// Nearest returns the candidate nearest to word, or "" if none is within three edits and
// half of its own length: a more distant one is a different word, not a slip.
func Nearest(word string, candidates []string) string {
	best, least := "", 4
	for _, c := range candidates {
		if d := Distance(word, c); d < least && 2*d <= len(c) {
			best, least = c, d
		}
	}
	return best
}

// Distance returns the number of insertions, deletions, replacements and swaps of adjacent
// bytes that turn a into b (optimal string alignment).
func Distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, row[j]+1, last[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
