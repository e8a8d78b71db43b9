// Package httpproxy decides which HTTP requests go by the proxy of the standard
// environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
//
// Link-local addresses never do: task metadata, the credentials of the task role
// and of the instance are there, and another machine would see its own, or get
// to see ours.
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

// FromEnvironment is [http.ProxyFromEnvironment] for all addresses that mean the
// same on every machine. Its errors do not quote the environment, which may have a
// password.
func FromEnvironment(req *http.Request) (*url.URL, error) {
	if direct(req.URL.Hostname()) {
		return nil, nil
	}
	proxy, err := http.ProxyFromEnvironment(req)
	switch {
	case err != nil && os.Getenv("REQUEST_METHOD") != "" && req.URL.Scheme == "http":
		return nil, err // as a CGI program, which must not trust HTTP_PROXY
	case err != nil, proxy != nil && (proxy.Host == "" || strings.Contains(proxy.Path+proxy.RawQuery+proxy.Fragment, "@")):
		// Without an error, the user would be taken for the scheme or the host.
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

// direct reports whether a host is an address of this machine or link only:
// what no route may lead to either.
func direct(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	_, denied := routes.Denied(a.WithZone(""))
	return denied
}

// Transport returns a transport like [http.DefaultTransport] that obeys
// [FromEnvironment].
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
