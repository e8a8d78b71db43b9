package secret

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http/httpproxy"
)

func TestScrubPasswords(t *testing.T) {
	for text, want := range map[string]string{
		`using proxy "http://user:S3CR3T@proxy:3128" for URL: "https://x/"`: `using proxy "http://<redacted>@proxy:3128" for URL: "https://x/"`,
		"httpproxy=http://S3CR3T@proxy:3128 httpsproxy=http://u:S3CR3T@p":   "httpproxy=http://<redacted>@proxy:3128 httpsproxy=http://<redacted>@p",
		`(auth "Basic UzNDUjNUOlMz...(36 total bytes)")`:                    `(auth "Basic <redacted>...(36 total bytes)")`,
		"https://user@example.com/path and me@example.com":                  "https://<redacted>@example.com/path and me@example.com",
		"https://example.com/@path?x=a@b":                                   "https://example.com/@path?x=a@b",
		"https://example.com":                                               "https://example.com",
		`using proxy "http://user:S3CR3T's@proxy:3128"`:                     `using proxy "http://<redacted>@proxy:3128"`,
		`using proxy "http://user:S3CR3T@S3CR3T@proxy:3128"`:                `using proxy "http://<redacted>@proxy:3128"`,
	} {
		if got := Scrub(text); got != want || strings.Contains(got, "S3CR3T") {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
}

// TestKeepProxy scrubs the errors and log lines of the HTTP library and the engine about
// proxies whose passwords contain characters that a URL's host cannot have.
func TestKeepProxy(t *testing.T) {
	for _, password := range []string{"S3CR3T's", "S3C@R3T", "S3C/R3T", "S3C#R3T", "S3C?R3T", `S3C"R3T`, "S3C R3T", "a/S3C", "1/S3C", "S3C%2FR3T", "S3C'@/#?R3T", "S3C-of-many-characters/R3T"} {
		for _, value := range []string{"http://user:" + password + "@proxy:3128", "http://" + password + "@proxy:3128", "user:" + password + "@proxy:3128"} {
			KeepProxy(" " + value + " ")
			texts := []string{"to " + value + ".", fmt.Sprintf("to %q", value)}
			if !strings.Contains(value, "://") {
				texts = []string{"to http://" + value}
			}
			config := httpproxy.Config{HTTPProxy: value}
			proxy, err := config.ProxyFunc()(&url.URL{Scheme: "http", Host: "example.com"})
			if err != nil {
				texts = append(texts, err.Error(), fmt.Sprintf(`Get "http://example.com/": %v`, err), fmt.Sprintf("%.60s", err))
			} else if !strings.Contains(proxy.Path+proxy.RawQuery+proxy.Fragment, "@") {
				texts = append(texts, fmt.Sprintf("using proxy %q", proxy))
			}
			for _, text := range texts {
				for _, got := range []string{Scrub(text), Clean(text, 300), Scrub(Scrub(text))} {
					if strings.Contains(got, "S3C") || strings.Contains(got, "R3T") || !strings.Contains(got, redacted) {
						t.Errorf("%s\nis scrubbed to %s", text, got)
					}
				}
			}
		}
	}
	for _, value := range []string{"", "@", "http://proxy:3128", "http://@proxy:3128"} {
		before := len(registered.users)
		if KeepProxy(value); len(registered.users) != before {
			t.Errorf("a user was kept for %q, which has none", value)
		}
	}
	const quoted = `{"message":"invalid proxy address <redacted>","fix":"x"}`
	if got := Scrub(quoted); got != quoted {
		t.Errorf("text without credentials was changed: %s", got)
	}
}
