package config

// suggest returns the candidate nearest to word, or "" where none is within
// three edits, of a short one half its length: a slip of the fingers and not
// another word.
func suggest(word string, candidates []string) string {
	best, least := "", 4
	for _, c := range candidates {
		if d := distance(word, c); d < least && 2*d <= len(c) {
			best, least = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements of single bytes
// that turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
