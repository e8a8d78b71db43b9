package payload

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeText returns a payload as UTF-8 without a byte-order mark. Windows tools write UTF-16,
// with and without one.
func decodeText(payload string) (string, error) {
	size := len(payload)
	switch {
	case strings.HasPrefix(payload, "\xff\xfe"):
		payload = decodeUTF16(payload[2:], binary.LittleEndian)
	case strings.HasPrefix(payload, "\xfe\xff"):
		payload = decodeUTF16(payload[2:], binary.BigEndian)
	case len(payload) > 3 && payload[0] != 0 && payload[1] == 0 && payload[2] != 0 && payload[3] == 0:
		payload = decodeUTF16(payload, binary.LittleEndian)
	case len(payload) > 3 && payload[0] == 0 && payload[1] != 0 && payload[2] == 0 && payload[3] != 0:
		payload = decodeUTF16(payload, binary.BigEndian)
	}
	if !utf8.ValidString(payload) {
		return "", malformed(storeJSON, "it is %d bytes of binary data, not text", size)
	}
	return trim(payload), nil
}

// decodeUTF16 returns invalid UTF-8 for an odd number of bytes.
func decodeUTF16(s string, order binary.ByteOrder) string {
	if len(s)%2 != 0 {
		return "\xff"
	}
	units := make([]uint16, 0, len(s)/2)
	for b := []byte(s); len(b) > 0; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	return string(utf16.Decode(units))
}

// trim removes white space and invisible characters at both ends.
func trim(s string) string { return strings.TrimFunc(s, invisible) }

func invisible(r rune) bool {
	switch r {
	case 0, '\u200b', '\u200c', '\u200d', '\u2060', '\ufeff':
		return true
	}
	return unicode.IsSpace(r)
}

var quotes = map[rune]rune{'"': '"', '\'': '\'', '`': '`', '“': '”', '”': '”', '„': '“', '‘': '’', '’': '’', '«': '»'}

// unquote removes white space and pairs of quotes around a value.
func unquote(s string) string {
	for {
		s = trim(s)
		first, n := utf8.DecodeRuneInString(s)
		last, m := utf8.DecodeLastRuneInString(s)
		if n+m > len(s) || quotes[first] == 0 || quotes[first] != last {
			return s
		}
		s = s[n : len(s)-m]
	}
}
