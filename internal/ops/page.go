package ops

import (
	_ "embed"
	"net/http"
)

// page.html draws /status in the browser. It is static, because a template
// engine would make the linker keep every exported method of the AWS SDK
// (reflection by method name), which costs more than the whole page is worth.
//
//go:embed page.html
var pageHTML []byte

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
	w.Write(pageHTML)
}
