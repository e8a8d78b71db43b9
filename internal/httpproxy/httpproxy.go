// Package httpproxy decides which HTTP requests use the proxy of the standard environment
// (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
//
// Requests to link-local addresses never do: they lead to task metadata and to the credentials
// of the task role and the instance. A proxy on another machine would reach its own, or obtain
// ours.
package httpproxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"subnetrouter/internal/routes"
	"subnetrouter/internal/secret"
)

// FromEnvironment is [http.ProxyFromEnvironment], but returns no proxy for addresses that are
// local to a machine or link. Its errors do not quote the environment, which may contain a
// password.
func FromEnvironment(req *http.Request) (*url.URL, error) {
	if direct(req.URL.Hostname()) {
		return nil, nil
	}
	proxy, err := http.ProxyFromEnvironment(req)
	switch {
	case err != nil && os.Getenv("REQUEST_METHOD") != "" && req.URL.Scheme == "http":
		return nil, err // a CGI program must not trust HTTP_PROXY
	case err != nil, proxy != nil && (proxy.Host == "" || strings.Contains(proxy.Path+proxy.RawQuery+proxy.Fragment, "@")):
		// Without this error, the user name would be used as the scheme or host.
		return nil, fmt.Errorf("%s is not the URL of a proxy: %s", variable(req.URL.Scheme), secret.ProxyFix)
	}
	return proxy, nil
}

// variable returns the name of the variable with the proxy for a scheme.
func variable(scheme string) string {
	name := strings.ToUpper(scheme) + "_PROXY"
	if os.Getenv(name) == "" {
		return strings.ToLower(name)
	}
	return name
}

// direct reports whether host is an address that is local to this machine or link, to which no
// route may lead either.
func direct(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	_, denied := routes.Denied(a.WithZone(""))
	return denied
}

// Transport returns a transport like [http.DefaultTransport] that uses [FromEnvironment].
func Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = FromEnvironment
	return t
}

// Direct returns a transport like [http.DefaultTransport] that uses no proxy.
func Direct() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	return t
}
