package e2e

import (
	"os"
	"testing"
)

// skipOrFail skips on a user's machine; CI has everything.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// notOnHeadscale skips a test of what Headscale does in another way.
func notOnHeadscale(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("HEADSCALE") != "" {
		t.Skip("not on Headscale: " + why)
	}
}
