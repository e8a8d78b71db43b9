package routesource

import (
	"fmt"
	"strings"
)

// tagged parses "WORD:TAG=VALUE". mine reports whether the element begins with the word; only
// then err matters.
func tagged(word, element, example string) (tag, value string, mine bool, err error) {
	first, rest, _ := strings.Cut(element, ":")
	if first != word {
		return "", "", false, nil
	}
	tag, value, _ = strings.Cut(rest, "=")
	if tag == "" || value == "" {
		return "", "", true, fmt.Errorf("%q has no tag and value: write %s:TAG=VALUE, such as %s", element, word, example)
	}
	return tag, value, true, nil
}
