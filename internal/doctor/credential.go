package doctor

import (
	"context"
)

// credentialChecks: that there is one, and that it has the form of one. Whether the
// tailnet takes it, only a login tells.
func (e *exam) credentialChecks() []Check {
	return []Check{{"credential", "secret", e.secret}}
}

func (e *exam) secret(ctx context.Context) Result {
	c := e.Bootstrap
	if c.AuthKey == "" && c.SecretID == "" {
		return skip("none is configured: the node's state in " + e.Config.StateDir + " has to be valid")
	}
	boot, err := e.boot.get(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	_, source, err := boot.Credential(ctx)
	if err != nil {
		return failed(err, awsReach)
	}
	if c.AuthKey != "" {
		return warn("well formed, from "+source,
			"a key in the environment shows in the task definition and in the ECS console; store it in Secrets Manager and set ROUTER_AUTH_SECRET")
	}
	return pass("readable and well formed: " + source)
}
