package httpfront

import (
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"unicode/utf8"
)

// rewrite turns a request of a client into that to the target: the same, with other headers about the client. The names of the
// headers are those of `tailscale serve`.
func (s *Server) rewrite(r *httputil.ProxyRequest) {
	q := r.In.Context().Value(requestKey{}).(*request)
	out := r.Out
	out.URL.Scheme, out.URL.Host, out.URL.User = "http", q.of.Target.String(), nil
	out.URL.RawQuery = r.In.URL.RawQuery // also what Go would not parse
	out.Host = r.In.Host
	dropReserved(out.Header)
	dropReserved(out.Trailer)
	out.Header.Set("X-Forwarded-For", q.of.Source.String())
	out.Header.Set("X-Forwarded-Host", r.In.Host)
	proto := "http"
	if q.tls {
		proto = "https"
	}
	out.Header.Set("X-Forwarded-Proto", proto)
	// A stranger's page, whose DNS name leads here, must not act as the user who opens it. With TLS, the browser has compared
	// the name with the certificate.
	if !q.tls && !s.cfg.OwnName(hostname(r.In.Host)) {
		return
	}
	identify(out.Header, s.cfg.Owner(q.of.Source))
}

// identify adds the headers about a user, if there is one.
func identify(h http.Header, u User) {
	login := encode(u.Login)
	if login == "" {
		return
	}
	h.Set("Tailscale-User-Login", login)
	h.Set("Tailscale-User-Name", encode(u.Name))
	h.Set("Tailscale-User-Profile-Pic", encode(u.Picture))
	h.Set("Tailscale-Headers-Info", "https://tailscale.com/s/serve-headers")
}

// encode returns a text as the value of a header: in RFC 2047's encoding unless it is printable ASCII, and "" if it is not UTF-8.
func encode(text string) string {
	if !utf8.ValidString(text) {
		return ""
	}
	return mime.QEncoding.Encode("utf-8", text)
}

// dropReserved removes the headers that only this proxy may set, also in spellings that servers take for the same: CGI and its
// successors turn all characters but letters and digits into underscores.
func dropReserved(h http.Header) {
	for name := range h {
		plain := strings.Map(func(c rune) rune {
			switch {
			case 'A' <= c && c <= 'Z':
				return c + 'a' - 'A'
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
				return c
			}
			return '-'
		}, name)
		if plain == "forwarded" || strings.HasPrefix(plain, "tailscale-") || strings.HasPrefix(plain, "x-forwarded-") {
			delete(h, name)
		}
	}
}

// hostname returns the name or address in a Host header, in lower case.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
