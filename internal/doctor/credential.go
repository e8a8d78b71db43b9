package doctor

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/internal/bootstrap/credential"
)

// expirySoon is the time before a key's expiry at which the warning begins, the same as for
// the alert rule SubnetRouterCredentialExpiring.
const expirySoon = 7 * 24 * time.Hour

// credentialChecks returns the check that a credential exists and is usable, without using
// it up. Whether the tailnet accepts it shows only at a login.
func (e *exam) credentialChecks() []Check {
	return []Check{{"credential", "secret", e.secret}}
}

// secret checks the credential as the router does: it reads an auth key, or gets a token
// from Tailscale's API for an OAuth client or a federated identity. It mints no key.
func (e *exam) secret(ctx context.Context) Result {
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	if boot.CredentialChoice().Source == credential.FromState {
		return skip("no credential is configured: the node's state in " + e.Config.Identity.Source.String() + " must be valid")
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
		const renew = "put a new auth key and its expires_at into the secret or parameter; a running router needs no restart. OAuth clients and federated identities do not expire"
		date := known.Expires.UTC().Format("2006-01-02 15:04 MST")
		switch left := time.Until(known.Expires); {
		case left <= 0 && (choice.Source == credential.FromSecretKey || choice.Source == credential.FromParameterKey):
			return fail(value+", expired "+date, renew)
		case left <= 0: // the API returned a token just now
			return warn(value+", expired "+date+" according to its expires_at", "correct or drop expires_at: the credential works")
		case left < expirySoon:
			return warn(value+", expires "+date, renew)
		}
		value += ", expires " + date
	}
	switch choice.Source {
	case credential.FromVariableKey, credential.FromVariableClient:
		return warn(value,
			"store it in Secrets Manager and set ROUTER_AUTH_SECRET: the task definition and the ECS console show credentials in the environment")
	}
	return pass(value)
}
