// Package httpproxy decides which HTTP requests go by the proxy of the standard
// environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
//
// Link-local addresses never do: task metadata, the credentials of the task role
// and of the instance are there, and another machine would see its own, or get
// to see ours.
package httpproxy

import (
	"net/http"
	"net/netip"
	"net/url"

	"subnetrouter/internal/routes"
)

// FromEnvironment is [http.ProxyFromEnvironment] for all addresses that mean the
// same on every machine.
func FromEnvironment(req *http.Request) (*url.URL, error) {
	if direct(req.URL.Hostname()) {
		return nil, nil
	}
	return http.ProxyFromEnvironment(req)
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
