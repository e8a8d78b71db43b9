package secret

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The user and password of a proxy: in a URL, as HTTP_PROXY has them, and in a
// header of HTTP, also cut short. The engine logs both.
var (
	inURL    = regexp.MustCompile(`://[^\s/?#"]*@`)
	inHeader = regexp.MustCompile(`\bBasic [A-Za-z0-9+/=]{8,}`)
	// unusableProxy is the error of golang.org/x/net/http/httpproxy, which has the whole
	// variable, and parts of it again as a host or a port.
	unusableProxy = regexp.MustCompile(`invalid proxy address \\*".*`)
)

// ProxyFix is the operator's remedy for a proxy variable that is not a URL.
const ProxyFix = "percent-encode the special characters of its user and password (%2F for /, %3F for ?, %23 for #)"

// scrubPasswords replaces passwords of URLs and of HTTP's basic authentication.
func scrubPasswords(s string) string {
	s = unusableProxy.ReplaceAllLiteralString(s, "invalid proxy address "+redacted+" in HTTP_PROXY or HTTPS_PROXY; "+ProxyFix)
	s = inURL.ReplaceAllString(s, "://"+redacted+"@")
	return inHeader.ReplaceAllString(s, "Basic "+redacted)
}

// KeepProxy has [Scrub] remove the user and password of a proxy, the value of HTTP_PROXY
// for one, also where they have characters that end a URL's host, such as / and #.
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
		users = append(users, u.User.String()) // as the engine prints it
		decoded, _ := u.User.Password()
		passwords = append(passwords, decoded)
	}
	Keep(passwords...)
	known.mu.Lock()
	defer known.mu.Unlock()
	for _, u := range users {
		if u != "" && !slices.Contains(known.users, u) {
			known.users = append(known.users, u)
		}
	}
	replaceKnown()
}
