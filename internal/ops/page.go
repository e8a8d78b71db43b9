package ops

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// page.html draws /status in the browser. It is static, because a template
// engine would make the linker keep every exported method of the AWS SDK
// (reflection by method name), which costs more than the whole page is worth.
//
//go:embed page.html
var pageHTML []byte

// pagePolicy lets the browser run the page's own script and nothing else, load
// nothing from elsewhere, and take no text for HTML (trusted types).
var pagePolicy = strings.Join([]string{
	"default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	"script-src " + hashOf("script"), "style-src " + hashOf("style"),
	"require-trusted-types-for 'script'", "trusted-types 'none'",
}, "; ")

// hashOf names the text of the page's one element of that name, as a policy does.
func hashOf(element string) string {
	_, rest, _ := bytes.Cut(pageHTML, []byte("<"+element+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	if s.cfg.Private {
		http.Error(w, "no page: ROUTER_STATUS_PAGE is off", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	w.Write(pageHTML)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Private && !fromHere(r) {
		http.Error(w, "ROUTER_STATUS_PAGE is off: only this host may ask, as `router status` does", http.StatusForbidden)
		return
	}
	writeJSON(w, http.StatusOK, s.statuses.get(fromHere(r)))
}

// fromHere reports whether the request came from this host: over loopback, or from
// an address of its own, which the kernel takes from no other.
func fromHere(r *http.Request) bool {
	var to string
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		to = a.String()
	}
	if _, local := hostOf(r.RemoteAddr, to); local {
		return true
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().WithZone("").Unmap() == from.Addr().WithZone("").Unmap()
	})
}
