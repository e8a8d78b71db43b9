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

// page.html renders /status in the browser. It is static: a template engine calls methods
// by name (reflection), so the linker would have to keep every exported method of the AWS
// SDK, which is tens of megabytes.
//
//go:embed page.html
var pageHTML []byte

// pagePolicy allows only the page's own script and style, forbids loading anything from
// other hosts and interpreting text as HTML (trusted types).
var pagePolicy = strings.Join([]string{
	"default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	"script-src " + hashOf("script"), "style-src " + hashOf("style"),
	"require-trusted-types-for 'script'", "trusted-types 'none'",
}, "; ")

// hashOf returns the policy's hash of the page's only element with this name.
func hashOf(element string) string {
	_, rest, _ := bytes.Cut(pageHTML, []byte("<"+element+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Private && !isGranted(r) {
		http.Error(w, "the status page is disabled (ROUTER_STATUS_PAGE=off)", http.StatusNotFound)
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
	if s.cfg.Private && !fromHere(r) && !isGranted(r) {
		http.Error(w, "only this host may read /status (ROUTER_STATUS_PAGE=off); run `router status` in the task", http.StatusForbidden)
		return
	}
	if _, err := asker(r); err == nil && s.cfg.Why != nil {
		w.Header().Set(whyHeader, "yes")
	}
	writeJSON(w, http.StatusOK, s.statuses.get(fromHere(r)))
}

// fromHere reports whether the request came from this host: over loopback, or from one of
// its own addresses. The kernel drops packets from other hosts with such a source.
func fromHere(r *http.Request) bool {
	if isGranted(r) {
		return false
	}
	var to string
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		to = a.String()
	}
	if _, local := hostOf(r.RemoteAddr, to, 128); local {
		return true
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && plain(p.Addr()) == plain(from.Addr())
	})
}
