package credential

import (
	"context"
	"errors"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

var state = &Kind{
	Labels: []string{FromState},
	named:  func(Settings) bool { return true },
	open:   func(Config) source { return stateSource{} },
}

// ErrNone is the cause of a failure if the configuration names no credential.
var ErrNone = errors.New("none is named")

// stateSource supplies no key: the router relies on the keys in ROUTER_STATE until control
// asks for a credential.
type stateSource struct{}

func (stateSource) choice() Choice {
	return Choice{FromState, "the node's own state", "no credential is configured, and ROUTER_STATE keeps the node's keys"}
}
func (stateSource) look(context.Context) error { return nil }
func (stateSource) key(context.Context) (secret.String, string, error) {
	return "", "", &problem.Problem{
		Code: problem.CredentialMissing, Message: "finding a credential: " + ErrNone.Error(), Fix: Advice(), Err: ErrNone,
	}
}
func (stateSource) refused()      {}
func (stateSource) status() Known { return Known{} }
