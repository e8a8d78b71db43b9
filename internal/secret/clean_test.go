package secret

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScrubFindsCredentials(t *testing.T) {
	const guid = "3f1c2d9e-8a67-4d8f-9d4c-0a1b2c3d4e5f"
	plain := strings.Repeat("0123456789abcdef", 3) // the form of Headscale's keys up to 0.27
	odd := "p/ss+word=with special&signs"
	Remember(plain, odd, "short")
	Keep("http://169.254.170.23/v1/creds/xyz")
	for _, tc := range []struct{ name, text, leak string }{
		{"auth key", "invalid key: " + key + " is expired", "kABCDEF"},
		{"Headscale's key", "hskey-auth-0123456789ab-0123456789abcdef not found", "0123456789ab"},
		{"web token", "bad token eyJhbGciOiJFUzM4NCJ9.eyJzdWIiOiJhcm4ifQ.c2lnbmF0dXJl!", "eyJ"},
		{"access key ID", "AKIAIOSFODNN7EXAMPLE is unknown", "IOSFODNN7"},
		{"credentials endpoint", "Get \"http://169.254.170.2/v2/credentials/" + guid + "\": timeout", guid},
		{"maxRecent", "no such key " + plain + ".", "0123456789abcdef"},
		{"maxRecent, in a query", "/x?key=" + url.QueryEscape(odd) + "&y", "word"},
		{"kept", "Get http://169.254.170.23/v1/creds/xyz: refused", "creds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, got := range []string{Scrub(tc.text), Clean(tc.text, 300)} {
				if strings.Contains(got, tc.leak) || !strings.Contains(got, redacted) {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	if got := Scrub("a short text"); got != "a short text" {
		t.Errorf("a value that is too short was redacted: %q", got)
	}
}

func TestRememberIsBounded(t *testing.T) {
	value := func(i int) string { return fmt.Sprintf("remembered-value-%04d", i) }
	for i := range 3 * maxRecent {
		Remember(value(0)) // used continuously
		Remember(value(i))
	}
	if n := len(registered.recent); n > maxRecent {
		t.Errorf("%d values are kept, want at most %d", n, maxRecent)
	}
	for _, i := range []int{0, 3*maxRecent - 1} {
		if got := Scrub(value(i)); got != redacted {
			t.Errorf("value %d is not redacted: %s", i, got)
		}
	}
}

func TestClean(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"prose", "invalid key: API key does not exist", "invalid key: API key does not exist"},
		{"lines", "a\r\nb\tc\u2028d  e", "a b c d e"},
		{"terminal sequences", "\x1b[31mred\x1b[0m\x07", "[31mred[0m"},
		{"direction", "a\u202eb\u200bc", "abc"},
		{"not UTF-8", "a\xff\xfeb", "ab"},
		{"letters", "größe 日本", "größe 日本"},
		{"a key behind a control character", "tskey-auth-\x00kABCDEF1CNTRL-0123456789abcdef", redacted},
		{"long", strings.Repeat("x", 60), strings.Repeat("x", 37) + "…"},
		{"a key across the end", strings.Repeat("x", 30) + " " + key, strings.Repeat("x", 30) + " <redac…"},
		{"letters across the end", strings.Repeat("é", 30), strings.Repeat("é", 18) + "…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Clean(tc.in, 40)
			if tc.name == "a key across the end" {
				if len(got) > 40 || strings.Contains(got, "tskey") {
					t.Errorf("got %q", got)
				}
				return
			}
			if got != tc.want || len(got) > 40 || !utf8.ValidString(got) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	if got := Clean(strings.Repeat("y", 1<<20)+key, 100); len(got) > 100 {
		t.Errorf("%d bytes", len(got))
	}
}
