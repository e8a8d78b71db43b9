package stock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Tags returns the build tags of the shipped router, from build/tags in a checkout. Comments are left out.
func Tags(root string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(root, "build", "tags"))
	if err != nil {
		return nil, fmt.Errorf("reading the build tags: %w", err)
	}
	var tags []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			tags = append(tags, strings.Fields(line)...)
		}
	}
	return tags, nil
}
