// Package secret keeps credentials out of everything that is printed.
//
// Two walls: [String] prints as "<redacted>" in logs, errors and JSON, so a
// credential that is passed around cannot leak by being formatted; [NewHandler]
// scrubs whatever looks like a Tailscale credential from log records, for text
// that comes from elsewhere (the embedded engine, an AWS error body).
package secret

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
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

// Every Tailscale credential (auth key, OAuth client secret, API key, webhook
// secret) starts with "tskey-"; Headscale's keys with "hskey-". A real one goes
// on for far more than 8 characters; our own prose ("tskey-client-…") does not.
var credential = regexp.MustCompile(`[th]skey-[A-Za-z0-9_-]{8,}`)

// Scrub replaces what looks like a Tailscale credential in s.
func Scrub(s string) string {
	return scrubPasswords(credential.ReplaceAllString(s, redacted))
}

// NewHandler wraps next so that messages and attributes pass through [Scrub].
func NewHandler(next slog.Handler) slog.Handler { return handler{next} }

type handler struct{ next slog.Handler }

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, Scrub(r.Message), r.PC)
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
		return slog.String(a.Key, Scrub(v.String()))
	case slog.KindGroup:
		group := make([]any, 0, len(v.Group()))
		for _, g := range v.Group() {
			group = append(group, scrubAttr(g))
		}
		return slog.Group(a.Key, group...)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case error:
			return slog.String(a.Key, Scrub(x.Error()))
		case fmt.Stringer:
			return slog.String(a.Key, Scrub(x.String()))
		case []string:
			clean := make([]string, len(x))
			for i, s := range x {
				clean[i] = Scrub(s)
			}
			return slog.Any(a.Key, clean)
		}
	}
	return slog.Attr{Key: a.Key, Value: v}
}
