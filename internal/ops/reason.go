package ops

import (
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Reason is a condition that makes the router not ready or, as a warning, one that will.
type Reason struct {
	// Code is one of [problem.Codes].
	Code problem.Code `json:"code"`
	// Title is the headline of the code, for people.
	Title string `json:"title,omitempty"`
	// Message describes the condition, with values.
	Message string `json:"message"`
	// Fix is the advice; "" if there is none.
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
	return Reason{Code: p.Code, Title: p.Code.Title(), Message: secret.Clean(p.Message, MaxMessage), Fix: secret.Clean(p.Fix, maxFix)}
}
