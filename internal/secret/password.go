package secret

import "regexp"

// The user and password of a proxy: in a URL, as HTTP_PROXY has them, and in a
// header of HTTP, also cut short. The engine logs both.
var (
	inURL    = regexp.MustCompile(`://[^\s/?#"'@]*@`)
	inHeader = regexp.MustCompile(`\bBasic [A-Za-z0-9+/=]{8,}`)
)

// scrubPasswords replaces passwords of URLs and of HTTP's basic authentication.
func scrubPasswords(s string) string {
	s = inURL.ReplaceAllString(s, "://"+redacted+"@")
	return inHeader.ReplaceAllString(s, "Basic "+redacted)
}
