package secret

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The user and password of a proxy, in a URL as in HTTP_PROXY and in an HTTP header, also
// truncated. The engine logs both.
var (
	inURL    = regexp.MustCompile(`://[^\s/?#"]*@`)
	inHeader = regexp.MustCompile(`\bBasic [A-Za-z0-9+/=]{8,}`)
	// unusableProxy matches an error of golang.org/x/net/http/httpproxy, which quotes the
	// whole variable, and parts of it again as a host or port.
	unusableProxy = regexp.MustCompile(`invalid proxy address \\*".*`)
)

// ProxyFix is the fix for a proxy variable that is not a URL.
const ProxyFix = "percent-encode the special characters of its user and password (%2F for /, %3F for ?, %23 for #)"

// scrubPasswords redacts passwords in URLs and in HTTP basic authentication.
func scrubPasswords(s string) string {
	s = unusableProxy.ReplaceAllLiteralString(s, "invalid proxy address "+redacted+" in HTTP_PROXY or HTTPS_PROXY; "+ProxyFix)
	s = inURL.ReplaceAllString(s, "://"+redacted+"@")
	return inHeader.ReplaceAllString(s, "Basic "+redacted)
}

// KeepProxy makes [Scrub] redact the user and password in the value of a proxy variable such as
// HTTP_PROXY, even if they contain characters that end a URL's host, such as / and #.
func KeepProxy(value string) {
	value = strings.TrimSpace(value)
	end := strings.LastIndex(value, "@")
	if end < 0 {
		return
	}
	user := value[:end]
	if _, rest, ok := strings.Cut(user, "://"); ok {
		user = rest
	}
	quoted := strconv.Quote(user)
	users := []string{user, quoted[1 : len(quoted)-1]}
	_, password, _ := strings.Cut(user, ":")
	passwords := []string{user, password}
	if u, err := url.Parse(value); err == nil && u.User != nil {
		users = append(users, u.User.String()) // in the engine's form
		decoded, _ := u.User.Password()
		passwords = append(passwords, decoded)
	}
	Keep(passwords...)
	registered.mu.Lock()
	defer registered.mu.Unlock()
	for _, u := range users {
		if u != "" && !slices.Contains(registered.users, u) {
			registered.users = append(registered.users, u)
		}
	}
	rebuildReplacer()
}
