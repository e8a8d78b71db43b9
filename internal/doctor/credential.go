package doctor

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/internal/bootstrap/credential"
)

// expirySoon is when a key's end is worth a word: as long before as the alert rule
// SubnetRouterCredentialExpiring fires.
const expirySoon = 7 * 24 * time.Hour

// credentialChecks: that there is one, and that it can be used as far as that shows
// without using it up. Whether the tailnet takes it, only a login tells.
func (e *exam) credentialChecks() []Check {
	return []Check{{"credential", "secret", e.secret}}
}

// secret looks at the credential as the router does: an auth key is read, an OAuth
// client or a federated identity gets a token from Tailscale's API. No key is made.
func (e *exam) secret(ctx context.Context) Result {
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	if boot.CredentialChoice().Source == credential.FromState {
		return skip("none is configured: the node's state in " + e.Config.StateDir + " has to be valid")
	}
	if err := boot.LookAtCredential(ctx); err != nil {
		return failed(err, awsReach)
	}
	known, choice := boot.CredentialKnown(), boot.CredentialChoice()
	value := "readable and well formed: " + choice.What
	if known.Version != "" {
		value += fmt.Sprintf(" (version %s)", known.Version)
	}
	if !known.Expires.IsZero() {
		const renew = "put a new auth key and its expires_at into the secret; a router that runs needs no restart. An OAuth client or a federated identity does not expire"
		date := known.Expires.UTC().Format("2006-01-02 15:04 MST")
		switch left := time.Until(known.Expires); {
		case left <= 0 && choice.Source == credential.FromSecretKey:
			return fail(value+", expired "+date, renew)
		case left <= 0: // it gave a token just now
			return warn(value+", expired "+date+" by what the secret says", "correct or drop expires_at: the credential works")
		case left < expirySoon:
			return warn(value+", expires "+date, renew)
		}
		value += ", expires " + date
	}
	switch choice.Source {
	case credential.FromVariableKey, credential.FromVariableClient:
		return warn(value,
			"a credential in the environment shows in the task definition and in the ECS console; store it in Secrets Manager and set ROUTER_AUTH_SECRET")
	}
	return pass(value)
}
