package config

import (
	"maps"
	"slices"
	"strings"

	"subnetrouter/internal/suggest"
)

// foreignPrefixes are the prefixes of names that this program shares with others. Under its
// own prefix, unknown names are errors.
var foreignPrefixes = []string{"TS_", "TAILSCALE_"}

// misspelt warns about unread variables with a name close to one that is read. Other
// programs have TS_ variables too (TS_NODE_PROJECT of ts-node), so other names are ignored.
func (in input) misspelt(r *report) {
	known := readNames()
	for _, name := range slices.Sorted(maps.Keys(in.env)) {
		if strings.TrimSpace(in.env[name]) == "" || strings.HasPrefix(name, prefix) || isOfficial(name) || slices.Contains(known, name) {
			continue
		}
		if advice := misspelling(name, known); advice != "" {
			r.warn(name, "not read: "+advice)
		}
	}
}

// misspelling returns the advice for an unknown name; "" means none.
func misspelling(name string, known []string) string {
	if upper := strings.ToUpper(name); upper != name && slices.Contains(known, upper) {
		return "write " + upper + ", in capitals"
	}
	if n := nearest(name, known); n != "" {
		return "did you mean " + current(n) + "?"
	}
	if n := otherPrefix(name, known); n != "" {
		return "did you mean " + current(n) + "?"
	}
	if f := upFlagOf(name); f.variable != "" {
		return "use " + f.variable
	} else if f.name != "" {
		return "write --" + f.name + " into TS_EXTRA_ARGS"
	}
	return ""
}

// readNames returns the names under which a setting is read.
func readNames() (names []string) {
	for _, v := range variables {
		if v.name != metadataURI { // ECS sets it, next to one that differs by a digit
			names = append(append(names, v.name), v.aliases...)
		}
	}
	for _, v := range officialRefused {
		names = append(names, v.name)
	}
	return names
}

// current returns a name that is read, with its replacement if it is deprecated.
func current(name string) string {
	i := slices.IndexFunc(variables, func(v variable) bool { return slices.Contains(v.aliases, name) })
	if i >= 0 && strings.HasPrefix(name, "TAILSCALE_") {
		return name + ", now " + variables[i].name
	}
	return name
}

// longWord is the length from which a word may have two typing errors; a shorter one with
// two differences is another word.
const longWord = 8

// nearest returns the known name at the smallest distance, if a typing error explains it.
func nearest(name string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		_, word, _ := strings.Cut(k, "_")
		limit := 1
		if len(word) >= longWord && hasForeignPrefix(name) {
			limit = 2
		}
		if d := suggest.Distance(name, k); d <= limit && d < least && !otherTwoLetters(name, k) {
			best, least = k, d
		}
	}
	return best
}

// otherTwoLetters reports whether name differs from a known name in one letter of TS_ only:
// MS_CLIENT_ID and WS_SOCKET are names of other programs, ST_HOSTNAME is a typing error.
func otherTwoLetters(name, known string) bool {
	const ours = "TS_"
	if hasForeignPrefix(name) || !strings.HasPrefix(known, ours) || len(name) < len(ours) || name[len(ours):] != known[len(ours):] {
		return false
	}
	return name[2] == '_' && (name[0] == ours[0]) != (name[1] == ours[1])
}

// otherPrefix returns a known name that has the same words under another
// prefix: TS_TAGS for ROUTER_TAGS.
func otherPrefix(name string, known []string) string {
	if !hasForeignPrefix(name) {
		return ""
	}
	for _, k := range known {
		if words(name) == words(k) {
			return k
		}
	}
	return ""
}

// upFlagOf returns the flag of `tailscale up` with the words of name.
func upFlagOf(name string) upFlag {
	for _, f := range upFlags {
		if hasForeignPrefix(name) && f.instead == "" && strings.Contains(f.name, "-") && words(name) == words("--_"+f.name) {
			return f
		}
	}
	return upFlag{}
}

func hasForeignPrefix(name string) bool {
	return slices.ContainsFunc(foreignPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// words returns a name without prefix and separators.
func words(name string) string {
	_, rest, _ := strings.Cut(name, "_")
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(rest))
}
