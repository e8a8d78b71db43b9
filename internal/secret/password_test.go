package secret

import (
	"strings"
	"testing"
)

func TestScrubPasswords(t *testing.T) {
	for text, want := range map[string]string{
		`using proxy "http://user:S3CR3T@proxy:3128" for URL: "https://x/"`: `using proxy "http://<redacted>@proxy:3128" for URL: "https://x/"`,
		"httpproxy=http://S3CR3T@proxy:3128 httpsproxy=http://u:S3CR3T@p":   "httpproxy=http://<redacted>@proxy:3128 httpsproxy=http://<redacted>@p",
		`(auth "Basic UzNDUjNUOlMz...(36 total bytes)")`:                    `(auth "Basic <redacted>...(36 total bytes)")`,
		"https://user@example.com/path and me@example.com":                  "https://<redacted>@example.com/path and me@example.com",
		"https://example.com/@path?x=a@b":                                   "https://example.com/@path?x=a@b",
		"https://example.com":                                               "https://example.com",
	} {
		if got := Scrub(text); got != want || strings.Contains(got, "S3CR3T") {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
}
