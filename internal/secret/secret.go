// Package secret keeps credentials out of everything that is printed.
//
// Two walls: [String] prints as "<redacted>" in logs, errors and JSON, so a
// credential that is passed around cannot leak by being formatted. [Scrub] removes
// everything in the form of a credential, and each value given to [Keep] or [Remember],
// from text that comes from elsewhere: a control server that echoes the auth key, the
// embedded engine, an AWS error body. [NewHandler] does so for log records.
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

// String is a credential. Only [String.Reveal] gives the value away.
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

// The forms of credentials.
//
// Every Tailscale credential (auth key, OAuth client secret, API key, webhook
// secret) starts with "tskey-"; Headscale's keys with "hskey-". A real one goes
// on for far more than 8 characters; our own prose ("tskey-client-…") does not.
// The path of the credentials endpoint of ECS is all that it takes to get the
// credentials of the task role from within the task.
var credential = regexp.MustCompile(strings.Join([]string{
	`[th]skey-[A-Za-z0-9_-]{8,}`,
	`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`, // JSON web token
	`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`,                                // AWS access key ID
	`/v2/credentials/[^\s"'<>?&]+`,
}, "|"))

// marks are what the expression cannot do without: most text has none of them.
var marks = []string{"skey-", "eyJ", "AKIA", "ASIA", "/v2/credentials/"}

const (
	// shortest is the length from which a value is taken for a secret wherever it
	// shows up: shorter ones may be words.
	shortest = 12
	// remembered bounds how many values are known: the auth keys, tokens and
	// credentials that are in use, and those before.
	remembered = 64
)

var known struct {
	mu       sync.RWMutex
	kept     []string // for good
	recent   []string // the latest use last
	users    []string // of proxies, with their passwords: of any length
	replacer *strings.Replacer
}

// Keep has [Scrub] remove these values for as long as the process lives, also as they
// look in a URL. It is for those of the environment: there is no bound. Values of less
// than 12 characters are ignored, here and in [Remember].
func Keep(values ...string) {
	known.mu.Lock()
	defer known.mu.Unlock()
	for _, v := range values {
		if v = strings.TrimSpace(v); len(v) >= shortest && !slices.Contains(known.kept, v) {
			known.kept = append(known.kept, v)
		}
	}
	replaceKnown()
}

// Remember does the same for values that change. Of these the last 64 are known.
func Remember(values ...string) {
	known.mu.Lock()
	defer known.mu.Unlock()
	changed := false
	for _, v := range values {
		if v = strings.TrimSpace(v); len(v) < shortest {
			continue
		}
		if i := slices.Index(known.recent, v); i >= 0 {
			known.recent = slices.Delete(known.recent, i, i+1)
		} else {
			changed = true
		}
		known.recent = append(known.recent, v)
	}
	if changed {
		known.recent = slices.Clone(known.recent[max(0, len(known.recent)-remembered):])
		replaceKnown()
	}
}

// replaceKnown needs mu.
func replaceKnown() {
	values := slices.Concat(known.kept, known.recent)
	// Of two values at one place the longer one counts.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, u := range known.users {
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
	known.replacer = strings.NewReplacer(pairs...)
}

// Scrub replaces the credentials in s.
func Scrub(s string) string {
	known.mu.RLock()
	replacer := known.replacer
	known.mu.RUnlock()
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

// Clean prepares text of somebody else for people: without credentials, without control
// and other invisible characters, in one line, and cut to at most most bytes.
func Clean(s string, most int) string {
	// A credential that lies across the end must not be cut before it is recognized.
	const beyond = 4 << 10
	s = strings.ToValidUTF8(s[:min(len(s), most+beyond)], "")
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
	if len(s) <= most {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:max(0, most-len(more))], "") + more
}

// mostLogged bounds one value in a log record, in bytes.
const mostLogged = 8 << 10

// logged returns s as a record shows it. Handlers quote control characters.
func logged(s string) string {
	const beyond = 4 << 10
	s = Scrub(s[:min(len(s), mostLogged+beyond)])
	if len(s) <= mostLogged {
		return s
	}
	return strings.ToValidUTF8(s[:mostLogged], "") + "…"
}

// NewHandler wraps next so that messages and attributes pass through [Scrub].
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
	}
	return slog.Attr{Key: a.Key, Value: v}
}
