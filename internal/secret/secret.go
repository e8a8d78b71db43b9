// Package secret keeps credentials out of all output, in two ways.
//
// A [String] prints as "<redacted>" in logs, errors and JSON, so that formatting it cannot leak
// it. [Scrub] redacts, in text from other sources, everything that has the form of a credential
// and each value given to [Keep] or [Remember]: a control server may echo the auth key, and the
// embedded engine and AWS errors may contain others. [NewHandler] scrubs log records.
package secret

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
)

const redacted = "<redacted>"

// String is a credential. Only [String.Reveal] returns the value.
type String string

// Reveal returns the credential itself.
func (s String) Reveal() string { return string(s) }

// String implements [fmt.Stringer].
func (s String) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements [fmt.Formatter], so that no verb (%x, %#v, %q) prints the value.
func (s String) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue implements [slog.LogValuer].
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler].
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// credential matches the known forms of credentials.
//
// Every Tailscale credential (auth key, OAuth client secret, API key, webhook secret) starts
// with "tskey-", Headscale's keys with "hskey-". Real ones continue for far more than 8
// characters; placeholders in messages ("tskey-client-…") do not. Inside the task, the path of
// the ECS credentials endpoint is sufficient to get the task role's credentials.
var credential = regexp.MustCompile(strings.Join([]string{
	`[th]skey-[A-Za-z0-9_-]{8,}`,
	`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`, // JSON web token
	`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`,                                // AWS access key ID
	`/v2/credentials/[^\s"'<>?&]+`,
}, "|"))

// marks are substrings of which the expression needs at least one; most text has none.
var marks = []string{"skey-", "eyJ", "AKIA", "ASIA", "/v2/credentials/"}

const (
	// minLength is the length from which a value is redacted anywhere; shorter ones may be
	// words.
	minLength = 12
	// maxRecent bounds the values given to Remember: auth keys, tokens and credentials in
	// use, and earlier ones.
	maxRecent = 64
)

// registered holds the values that [Scrub] redacts besides the known forms.
var registered struct {
	mu       sync.RWMutex
	kept     []string // by Keep, never removed
	recent   []string // by Remember, the most recently used last
	users    []string // of proxies, with their passwords, of any length
	replacer *strings.Replacer
}

// Keep makes [Scrub] redact these values, including their URL-escaped forms, for the lifetime
// of the process. Use it for values from the environment: their number is not bounded. Values
// of less than 12 characters are ignored, here and in [Remember].
func Keep(values ...string) {
	registered.mu.Lock()
	defer registered.mu.Unlock()
	for _, v := range values {
		if v = strings.TrimSpace(v); len(v) >= minLength && !slices.Contains(registered.kept, v) {
			registered.kept = append(registered.kept, v)
		}
	}
	rebuildReplacer()
}

// Remember is [Keep] for values that change. It keeps the 64 most recently used.
func Remember(values ...string) {
	registered.mu.Lock()
	defer registered.mu.Unlock()
	changed := false
	for _, v := range values {
		if v = strings.TrimSpace(v); len(v) < minLength {
			continue
		}
		if i := slices.Index(registered.recent, v); i >= 0 {
			registered.recent = slices.Delete(registered.recent, i, i+1)
		} else {
			changed = true
		}
		registered.recent = append(registered.recent, v)
	}
	if changed {
		registered.recent = slices.Clone(registered.recent[max(0, len(registered.recent)-maxRecent):])
		rebuildReplacer()
	}
}

// rebuildReplacer rebuilds registered.replacer. The caller holds registered.mu.
func rebuildReplacer() {
	values := slices.Concat(registered.kept, registered.recent)
	// Of two values that match at one position, the longer one is redacted.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, u := range registered.users {
		pairs = append(pairs, "://"+u+"@", "://"+redacted+"@")
		if strings.Contains(u, ":") { // without a scheme
			pairs = append(pairs, u+"@", redacted+"@")
		}
	}
	for _, v := range values {
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v)} {
			pairs = append(pairs, form, redacted)
		}
	}
	registered.replacer = strings.NewReplacer(pairs...)
}

// Scrub redacts the credentials in s.
func Scrub(s string) string {
	registered.mu.RLock()
	replacer := registered.replacer
	registered.mu.RUnlock()
	if replacer != nil {
		s = replacer.Replace(s)
	}
	for _, mark := range marks {
		if strings.Contains(s, mark) {
			s = credential.ReplaceAllString(s, redacted)
			break
		}
	}
	return scrubPasswords(scrubOldHeadscale(s))
}

// Clean makes text from another system fit for display: without credentials and invisible
// characters, on one line, and truncated to maxBytes bytes.
func Clean(s string, maxBytes int) string {
	// A credential across the cut must be recognized before the text is truncated.
	const lookahead = 4 << 10
	s = strings.ToValidUTF8(s[:min(len(s), maxBytes+lookahead)], "")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r): // control characters, changes of direction, joiners
			return -1
		}
		return r
	}, s)
	s = Scrub(strings.Join(strings.Fields(s), " "))
	if len(s) <= maxBytes {
		return s
	}
	const ellipsis = "…"
	return strings.ToValidUTF8(s[:max(0, maxBytes-len(ellipsis))], "") + ellipsis
}

// maxLogged bounds a value in a log record, in bytes.
const maxLogged = 8 << 10

// logged returns s as it appears in a log record. Handlers quote control characters.
func logged(s string) string {
	const lookahead = 4 << 10
	s = Scrub(s[:min(len(s), maxLogged+lookahead)])
	if len(s) <= maxLogged {
		return s
	}
	return strings.ToValidUTF8(s[:maxLogged], "") + "…"
}

// NewHandler returns a handler that passes messages and attributes through [Scrub] before next.
func NewHandler(next slog.Handler) slog.Handler { return handler{next} }

type handler struct{ next slog.Handler }

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, logged(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(scrubAttr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = scrubAttr(a)
	}
	return handler{h.next.WithAttrs(clean)}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.next.WithGroup(name)} }

func scrubAttr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, logged(v.String()))
	case slog.KindGroup:
		group := make([]any, 0, len(v.Group()))
		for _, g := range v.Group() {
			group = append(group, scrubAttr(g))
		}
		return slog.Group(a.Key, group...)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return slog.String(a.Key, logged(x.Error()))
		case fmt.Stringer:
			return slog.String(a.Key, logged(x.String()))
		case []string:
			clean := make([]string, len(x))
			for i, s := range x {
				clean[i] = logged(s)
			}
			return slog.Any(a.Key, clean)
		case nil:
		default:
			return slog.String(a.Key, logged(fmt.Sprintf("%+v", x)))
		}
	default: // numbers and times hold no secret
	}
	return slog.Attr{Key: a.Key, Value: v}
}
