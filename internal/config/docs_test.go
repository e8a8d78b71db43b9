package config

import (
	"regexp"
	"strings"
	"testing"
)

// TestUsageIsComplete: each setting is there with its flag, its aliases and its default.
func TestUsageIsComplete(t *testing.T) {
	text := Usage()
	has := func(word string) bool {
		return regexp.MustCompile(`(^|[^A-Za-z0-9_-])` + regexp.QuoteMeta(word) + `($|[^A-Za-z0-9_-])`).MatchString(text)
	}
	for _, v := range variables {
		words := append([]string{v.name}, v.aliases...)
		if v.flag != "" {
			words = append(words, "--"+v.flag)
		}
		for _, word := range words {
			if !has(word) {
				t.Errorf("the usage lacks %s", word)
			}
		}
		if d := v.defaultText(); !strings.Contains(strings.Join(strings.Fields(text), " "), d) {
			t.Errorf("the usage lacks the default of %s, %s", v.name, d)
		}
	}
}

func TestUsage(t *testing.T) {
	got := Usage()
	want := `
  --hostname, ROUTER_HOSTNAME, TS_HOSTNAME, TAILSCALE_HOSTNAME
      Name of the node in the tailnet: one DNS label. Default: from the task's family;
      outside ECS ` + "`subnet-router`" + `, or the host's name if all variables are those of
      the official image (TS_).
`
	if !strings.Contains(got, want) {
		t.Errorf("want in it:%s\ngot:\n%s", want, got)
	}
	for line := range strings.SplitSeq(got, "\n") {
		if len(line) > 90 && !strings.HasPrefix(line, "  --") {
			t.Errorf("too wide: %s", line)
		}
	}
}

// A flag has the name of its variable.
func TestFlagNames(t *testing.T) {
	for _, v := range variables {
		own := strings.TrimPrefix(strings.TrimPrefix(v.name, prefix), "TS_")
		want := strings.ReplaceAll(strings.ToLower(own), "_", "-")
		switch v.name {
		case "TS_AUTHKEY", metadataURI:
			want = ""
		}
		if v.flag != want {
			t.Errorf("%s has the flag %q, want %q", v.name, v.flag, want)
		}
	}
}
