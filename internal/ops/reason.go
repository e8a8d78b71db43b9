package ops

import (
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Reason is one thing that stands between the router and readiness, or, as a
// warning, will one day.
type Reason struct {
	// Code is one of [problem.Codes].
	Code problem.Code `json:"code"`
	// Message says what is the matter, with values.
	Message string `json:"message"`
	// Fix says what to do, where there is something to do.
	Fix string `json:"fix,omitempty"`
}

// Bounds of a reason's texts, in bytes: a message may quote several answers, and a fix may
// list every route.
const (
	MaxMessage = 2000
	maxFix     = 64 << 10
)

// ReasonOf returns p as a reason, in one line each, bounded and without credentials.
func ReasonOf(p *problem.Problem) Reason {
	return Reason{Code: p.Code, Message: secret.Clean(p.Message, MaxMessage), Fix: secret.Clean(p.Fix, maxFix)}
}
