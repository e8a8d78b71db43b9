package browsertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEnd: after the clean-up of a test, no process uses its profile.
func TestEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<script>localStorage.setItem('a', 'b'); document.write('stored')</script>")
	}))
	defer server.Close()
	var profile string
	t.Run("browser", func(t *testing.T) {
		// Clean-ups run in reverse order: this one after the browser's and before the profile's.
		profile = filepath.Dir(t.TempDir())
		t.Cleanup(func() {
			if using := users(profile); len(using) > 0 {
				t.Errorf("%d processes use the profile after the end of the browser:\n%s", len(using), strings.Join(using, "\n"))
			}
		})
		p := Open(t, server.URL, Options{})
		p.Await("the word", func(text string) bool { return strings.Contains(text, "stored") })
		if len(users(profile)) == 0 {
			t.Error("no process uses the profile while the browser runs")
		}
	})
}

// users returns the processes with an argument below dir.
func users(dir string) (list []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if args := strings.ReplaceAll(string(text), "\x00", " "); strings.Contains(args, dir) {
			list = append(list, file+": "+args[:min(len(args), 100)])
		}
	}
	return list
}
