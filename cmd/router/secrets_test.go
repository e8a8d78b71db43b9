package main

import (
	"strings"
	"testing"

	"subnetrouter/internal/secret"
)

// TestProxyPasswordsAreKept checks that the password of each proxy variable is redacted.
func TestProxyPasswordsAreKept(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		value := "http://user:" + name + "/a'b#c@d@proxy:3128"
		redactSecrets([]string{"X=y", name + "=" + value})
		if got := secret.Scrub("using " + value); got != "using http://<redacted>@proxy:3128" || strings.Contains(got, name) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
