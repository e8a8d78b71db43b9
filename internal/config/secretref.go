package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"subnetrouter/internal/credential"
)

// SecretRef names a secret in Secrets Manager.
type SecretRef struct {
	ID string // name or ARN, as GetSecretValue takes it: without ECS's suffix

	// From ECS's suffix of an ARN, ":json-key:version-stage:version-id"; each
	// may be "".
	JSONKey      string
	VersionStage string
	VersionID    string
}

// IsZero reports whether r names nothing.
func (r SecretRef) IsZero() bool { return r.ID == "" }

// Region returns the region in an ARN, or "" for a plain name: then the
// secret is in the task's own region.
func (r SecretRef) Region() string {
	if parts := strings.Split(r.ID, ":"); len(parts) == arnParts {
		return parts[3]
	}
	return ""
}

// arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME
const arnParts = 7

var (
	secretARN  = regexp.MustCompile(`^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[A-Za-z0-9/_+=.@!-]{1,519}$`)
	secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)
)

// parseSecretRef never shows a value that is no ARN: it may be the secret.
func parseSecretRef(s string) (SecretRef, error) {
	switch {
	case credential.Resembles(s), strings.HasPrefix(s, "tskey-"), strings.HasPrefix(s, "hskey-"), strings.HasPrefix(s, "{"):
		return SecretRef{}, errors.New("this is a credential, not the name of one: store it in Secrets Manager and write that secret's name or ARN, or give it as TS_AUTHKEY")
	case strings.HasPrefix(s, "arn:"):
		parts := strings.Split(s, ":")
		if len(parts) > arnParts+3 {
			return SecretRef{}, fmt.Errorf("%s has too many parts: after the secret's name, write at most :json-key:version-stage:version-id", quote(s))
		}
		ref := SecretRef{ID: strings.Join(parts[:min(len(parts), arnParts)], ":")}
		if !secretARN.MatchString(ref.ID) {
			return SecretRef{}, fmt.Errorf("%s is not the ARN of a Secrets Manager secret: write one such as arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf", quote(s))
		}
		for i, suffix := range []*string{&ref.JSONKey, &ref.VersionStage, &ref.VersionID} {
			if arnParts+i < len(parts) {
				*suffix = parts[arnParts+i]
			}
		}
		return ref, nil
	case !secretName.MatchString(s):
		return SecretRef{}, errors.New("this is neither the name nor the ARN of a secret (and not shown, as it may be the secret itself): write one such as tailscale/auth-key; a :json-key suffix needs the full ARN, or ROUTER_AUTH_SECRET_KEY")
	}
	return SecretRef{ID: s}, nil
}
