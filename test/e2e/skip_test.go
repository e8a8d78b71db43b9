package e2e

import (
	"os"
	"testing"
)

// skipOrFail skips the test, or fails it in CI, which has every program.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// notOnHeadscale skips the test if the control server is Headscale, which behaves differently.
func notOnHeadscale(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("HEADSCALE") != "" {
		t.Skip("not on Headscale: " + why)
	}
}
