package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/secret"
)

// The names under which a document may have a credential, normalized: authKey, AUTH_KEY and
// auth-key are the same.
var (
	keyNames    = []string{"authkey", "tsauthkey", "tailscaleauthkey", "preauthkey", "preauthorizationkey", "tskey", "tailscalekey", "key"}
	firstNames  = []string{"authkey", "tsauthkey"} // those of keyNames in the documentation and in errors
	idNames     = []string{"clientid", "oauthclientid", "tsclientid", "tsoauthclientid", "tailscaleclientid", "tailscaleoauthclientid"}
	secretNames = []string{"clientsecret", "oauthclientsecret", "tsclientsecret", "tsoauthclientsecret", "tailscaleclientsecret", "tailscaleoauthclientsecret"}
	expiryNames = []string{"expiresat", "expires", "expiry", "expiration"}
)

var separators = strings.NewReplacer("_", "", "-", "", ".", "", " ", "")

// normalized returns a name in lower case without separators.
func normalized(name string) string { return strings.ToLower(separators.Replace(name)) }

func isOne(name string, of []string) bool { return slices.Contains(of, normalized(name)) }

// field is a name and value in a document.
type field struct {
	name, value string
	kind        string // "" for a string, else "a number", …
}

// ParseLiteral parses a credential in the configuration itself, where documents are not
// accepted.
func ParseLiteral(value string, foreign bool) (Credential, error) {
	text, err := decodeText(value)
	if err != nil {
		return Credential{}, ofLiteral(err)
	}
	if strings.HasPrefix(unquote(text), "{") {
		return Credential{}, malformed("write the key alone, or store the JSON in Secrets Manager and name it in ROUTER_AUTH_SECRET", "it is JSON, not a key")
	}
	c, err := Format{Foreign: foreign}.parse(text, 0)
	return c, ofLiteral(err)
}

// Parse parses a credential in a secret's payload.
func Parse(payload string, f Format) (Credential, error) {
	text, err := decodeText(payload)
	if err != nil {
		return Credential{}, err
	}
	return f.parse(text, 0)
}

// maxWraps bounds the nesting of encodings, such as JSON in a JSON string in base64.
const maxWraps = 3

func (f Format) parse(text string, wrapped int) (Credential, error) {
	text = trim(text)
	switch {
	case text == "":
		return Credential{}, empty()
	case strings.HasPrefix(text, "{"):
		fields, err := parseObject(text)
		if err != nil {
			return Credential{}, err
		}
		return f.choose(fields, true)
	case strings.HasPrefix(text, "["):
		if json.Valid([]byte(text)) {
			return Credential{}, malformed(storeJSON, "it is a JSON array")
		}
	case strings.HasPrefix(text, `"`):
		var inner string
		if json.Unmarshal([]byte(text), &inner) == nil && wrapped < maxWraps {
			return f.parse(inner, wrapped+1)
		}
	case json.Valid([]byte(text)): // a number, true, false or null
		if kind := kindOf(json.RawMessage(text)); kind != "a number" || !f.Foreign {
			return Credential{}, malformed(storeJSON, "it is %s", kind)
		}
	}
	if plain := unquote(text); plain != text && wrapped < maxWraps {
		return f.parse(plain, wrapped+1)
	}
	if fields := parseLines(text, f.JSONKey); len(fields) > 0 {
		return f.choose(fields, false)
	}
	if f.JSONKey != "" {
		return Credential{}, malformed(storeJSON+", or unset ROUTER_AUTH_SECRET_KEY", "it is not a JSON object, so it cannot have the key %q", shown(f.JSONKey))
	}
	c, certain, err := f.parseKey(text)
	if certain || wrapped >= maxWraps {
		return c, err
	}
	// A text payload may have been encoded by hand before it was stored as a binary secret.
	if inner, ok := decodeBase64(text); ok && (Resembles(inner) || strings.HasPrefix(inner, "{")) {
		if decoded, inside := f.parse(inner, wrapped+1); inside == nil || err != nil {
			return decoded, inside
		}
	}
	return c, err
}

// parseObject parses a JSON object; names may be repeated.
func parseObject(text string) (fields []field, err error) {
	// The decoder's errors are not shown because they may quote a byte of the text.
	bad := malformed(storeJSON, "it starts with { but is not valid JSON")
	dec := json.NewDecoder(strings.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, bad
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, bad
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, bad
		}
		f := field{name: name.(string), kind: kindOf(raw)}
		if f.kind == "" && json.Unmarshal(raw, &f.value) != nil {
			return nil, bad
		}
		fields = append(fields, f)
	}
	if _, err := dec.Token(); err != nil {
		return nil, bad
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, bad
	}
	return fields, nil
}

// kindOf returns the kind of a JSON value that is not a string, or "" for a string.
func kindOf(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return ""
	case '{':
		return "a JSON object"
	case '[':
		return "a JSON array"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// assignment matches a line of an environment file, a shell script, HCL, YAML or JSON.
var assignment = regexp.MustCompile(`^(?:(?i:export|set|setx|declare -x|env)\s+|\$(?i:env):|--?)?["']?([A-Za-z_][A-Za-z0-9_.-]*)["']?\s*[=:]\s*(.*)$`)

// parseLines parses lines of NAME=VALUE. It returns nil unless every line is one or a comment,
// and at least one has a known name.
func parseLines(text, jsonKey string) (fields []field) {
	known := false
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "\n")) {
		line = trim(line)
		if line == "" || line == "---" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "//") {
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			return nil
		}
		name, value := m[1], m[2]
		if before, _, comment := strings.Cut(value, " #"); comment {
			value = before
		}
		value = unquote(strings.TrimRight(trim(value), ",;"))
		fields = append(fields, field{name: name, value: value})
		known = known || isOne(name, keyNames) || isOne(name, secretNames) || jsonKey != "" && name == jsonKey
	}
	if !known {
		return nil
	}
	return fields
}

// candidate is a credential found in a document.
type candidate struct {
	name    string
	found   Credential
	certain bool
}

// choose returns the one credential among fields. isJSON is true if names may be shown; in
// lines, a name may be part of a secret.
func (f Format) choose(fields []field, isJSON bool) (Credential, error) {
	var (
		list  []candidate
		wrong []error
	)
	id, idErr := clientID(fields)
	named := false // a field has a matching name
	for _, field := range fields {
		if f.JSONKey != "" && field.name != f.JSONKey || f.JSONKey == "" && !isOne(field.name, keyNames) && !isOne(field.name, secretNames) {
			continue
		}
		named = true
		found, certain, err := f.parseField(field, id)
		if idErr != nil && isOne(field.name, secretNames) {
			err = idErr
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		list = append(list, candidate{field.name, found, certain})
	}
	switch {
	case slices.ContainsFunc(list, func(c candidate) bool { return c.certain }):
		list = slices.DeleteFunc(list, func(c candidate) bool { return !c.certain })
	case slices.ContainsFunc(list, func(c candidate) bool { return isOne(c.name, firstNames) }):
		// A value under another name, such as "key", may be for something else.
		list = slices.DeleteFunc(list, func(c candidate) bool { return !isOne(c.name, firstNames) })
	}
	switch {
	case len(list) > 0:
		found, err := unambiguous(list)
		if err == nil {
			found.Expires = expiry(fields)
		}
		return found, err
	case len(wrong) > 0:
		// Report a wrong value rather than an empty one.
		i := max(0, slices.IndexFunc(wrong, func(err error) bool { return !errors.Is(err, ErrEmpty) }))
		return Credential{}, wrong[i]
	case !named && f.JSONKey != "":
		return Credential{}, malformed("correct the secret, ROUTER_AUTH_SECRET_KEY or the key behind the ARN", "its JSON has no key %q (it has %s)", shown(f.JSONKey), names(fields, isJSON))
	}
	return Credential{}, malformed("rename the key or name it in ROUTER_AUTH_SECRET_KEY", "its JSON has none of the keys auth_key, authkey, TS_AUTHKEY (it has %s)", names(fields, isJSON))
}

// unambiguous returns the one credential that all of list are.
func unambiguous(list []candidate) (Credential, error) {
	first := list[0]
	for _, c := range list[1:] {
		if !first.found.same(c.found) {
			var names []string
			for _, c := range list {
				if n := fmt.Sprintf("%q", shown(c.name)); !slices.Contains(names, n) {
					names = append(names, n)
				}
			}
			return Credential{}, malformed("keep one of them, or name it in ROUTER_AUTH_SECRET_KEY", "it contains different credentials under the keys %s", strings.Join(names, ", "))
		}
	}
	return first.found, nil
}

func (c Credential) same(d Credential) bool {
	if c.Client == nil || d.Client == nil {
		return c.Client == d.Client && c.Key == d.Key
	}
	return c.Client.Secret == d.Client.Secret && c.Client.Attributes.String() == d.Client.Attributes.String()
}

// parseField parses the value of a field. id is the ID of the OAuth client in the document, if
// any.
func (f Format) parseField(v field, id string) (c Credential, certain bool, err error) {
	if v.kind != "" && v.kind != "null" {
		return c, false, malformed(storeJSON, "the value of its key %q is %s, not a string", shown(v.name), v.kind)
	}
	c, certain, err = f.parseKey(v.value)
	switch {
	case !isOne(v.name, secretNames):
	case c.Client != nil && id != "":
		c.Client.ID = id
	case !certain && id != "" && !errors.Is(err, ErrEmpty):
		// Another vendor's API may have secrets of any form that is one word.
		word := unquote(v.value)
		if strings.ContainsFunc(word, notInKeys) || strings.HasPrefix(word, "tskey-") || strings.HasPrefix(word, "hskey-") {
			break
		}
		return Credential{Client: &Client{ID: id, Secret: secret.String(word)}}, false, nil
	}
	if err != nil {
		return Credential{}, false, within(v.name, err)
	}
	return c, certain, nil
}

// clientID returns the ID of the OAuth client in a document, or "".
func clientID(fields []field) (string, error) {
	for _, v := range fields {
		if !isOne(v.name, idNames) {
			continue
		}
		id := unquote(v.value)
		switch {
		case v.kind != "" && v.kind != "null":
			return "", malformed(storeJSON, "the value of its key %q is %s, not a string", shown(v.name), v.kind)
		case strings.ContainsFunc(id, notInKeys) || Resembles(id):
			return "", malformed(storeJSON, "the value of its key %q is not the ID of an OAuth client", shown(v.name))
		case id != "":
			return id, nil
		}
	}
	return "", nil
}

// expiry returns the credential's expiry, if the document has it: Terraform's
// tailscale_tailnet_key calls it expires_at. It is only used for a metric, so that an
// unreadable time is ignored: it must not stop a router that has a valid key.
func expiry(fields []field) time.Time {
	for _, v := range fields {
		if !isOne(v.name, expiryNames) {
			continue
		}
		if at, err := time.Parse(time.RFC3339, trim(v.value)); err == nil {
			return at
		}
	}
	return time.Time{}
}

// names lists the keys of a document, truncated to fit on a line.
func names(fields []field, isJSON bool) string {
	const most = 8
	var list []string
	for _, v := range fields {
		name := fmt.Sprintf("%q", shown(v.name))
		if len(v.name) > maxName {
			name = shown(v.name)
		}
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	switch {
	case len(fields) == 0:
		return "none"
	case !isJSON:
		return fmt.Sprintf("%d lines of NAME=VALUE", len(fields))
	case len(list) > most:
		list = append(list[:most], fmt.Sprintf("%d more", len(list)-most))
	}
	return strings.Join(list, ", ")
}

const maxName = 32

// shown returns a name for an error, redacted if it may be a misplaced credential.
func shown(name string) string {
	switch {
	case len(name) > maxName:
		return fmt.Sprintf("one of %d bytes", len(name))
	case Resembles(name):
		return "<redacted>"
	}
	return secret.Scrub(name)
}
