package tcp

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestConformanceTable: docs/tcp.md names tests that exist, and each test of a rule.
func TestConformanceTable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/tcp.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]string{} // with its file
	for _, pattern := range []string{"*_test.go", "../simnet/own/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(source), -1) {
				declared[m[1]] = file
			}
		}
	}
	for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(doc), -1) {
		if declared[m[1]] == "" {
			t.Errorf("docs/tcp.md names %s, which does not exist", m[1])
		}
	}
	for name, file := range declared {
		if file == "rules_test.go" && !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/tcp.md does not name %s", name)
		}
	}
}
