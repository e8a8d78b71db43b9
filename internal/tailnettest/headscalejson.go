package tailnettest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// headscaleJSON decodes the output of a Headscale command into out, whose
// fields have snake_case names. Headscale has two encodings:
//
//   - up to 0.29, that of its protobuf structs: snake_case names, numeric IDs,
//     times as {"seconds": …}, and empty fields left out;
//   - later, that of its API: camelCase names, IDs as strings, times in RFC 3339,
//     and empty fields as "", [] or null.
//
// Either encoding is accepted for each field, since they may change again.
func headscaleJSON(b []byte, out any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // an ID may exceed a float64
	var answer any
	if err := dec.Decode(&answer); err != nil {
		return err
	}
	b, err := json.Marshal(snakeCaseNames(answer))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

func snakeCaseNames(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, value := range v {
			out[snakeCase(name)] = snakeCaseNames(value)
		}
		return out
	case []any:
		for i := range v {
			v[i] = snakeCaseNames(v[i])
		}
	}
	return v
}

func snakeCase(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// headscaleID is an ID, which in JSON is a number or a string with a number.
type headscaleID uint64

func (id headscaleID) String() string { return strconv.FormatUint(uint64(id), 10) }

func (id *headscaleID) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 64)
	if err != nil {
		return fmt.Errorf("parsing the ID %s: %w", b, err)
	}
	*id = headscaleID(n)
	return nil
}

// headscaleTime is a time, which in JSON is null, a string in RFC 3339, or an object with
// seconds since 1970. Times before 1970 mean that there is none, and become the zero time.
type headscaleTime struct{ time.Time }

func (t *headscaleTime) UnmarshalJSON(b []byte) error {
	t.Time = time.Time{}
	if bytes.HasPrefix(b, []byte("{")) {
		var proto struct {
			Seconds int64 `json:"seconds"`
			Nanos   int64 `json:"nanos"`
		}
		if err := json.Unmarshal(b, &proto); err != nil {
			return err
		}
		t.Time = time.Unix(proto.Seconds, proto.Nanos)
	} else if err := json.Unmarshal(b, &t.Time); err != nil {
		return err
	}
	if t.Unix() <= 0 {
		t.Time = time.Time{}
	}
	return nil
}
