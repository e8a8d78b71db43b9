package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Bytes is a binary secret, such as an encryption key. It prints as [String] does. Only
// [Bytes.Reveal] returns the value.
type Bytes []byte

// Reveal returns the secret itself, not a copy.
func (b Bytes) Reveal() []byte { return b }

// String implements [fmt.Stringer].
func (b Bytes) String() string {
	if len(b) == 0 {
		return ""
	}
	return redacted
}

// Format implements [fmt.Formatter], so that no verb (%x, %#v, %q) prints the value.
func (b Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, b.String()) }

// LogValue implements [slog.LogValuer].
func (b Bytes) LogValue() slog.Value { return slog.StringValue(b.String()) }

// MarshalText implements [encoding.TextMarshaler].
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
