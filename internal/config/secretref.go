package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/credential/payload"
)

// setStored sets the place of the stored credential: a secret, or a parameter.
func setStored(c *Config, _, value string) error {
	var err error
	if arn, ok := awsapi.ParseARN(value); ok && arn.Service == "ssm" {
		c.Credential.Parameter, err = parseParameterRef(value)
	} else {
		c.Credential.Secret, err = parseSecretRef(value)
	}
	return err
}

var secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)

// parseSecretRef parses the name or ARN of a secret. Its errors never show a value that is
// not an ARN, since it may be the secret itself.
func parseSecretRef(s string) (awsapi.SecretRef, error) {
	switch {
	case payload.Resembles(s), strings.HasPrefix(s, "tskey-"), strings.HasPrefix(s, "hskey-"), strings.HasPrefix(s, "{"):
		return awsapi.SecretRef{}, errors.New("this is a credential, not the name of one: store it in Secrets Manager and write that secret's name or ARN, or give it as TS_AUTHKEY")
	case strings.HasPrefix(s, "arn:"):
		return parseSecretARN(s)
	case !secretName.MatchString(s):
		return awsapi.SecretRef{}, errors.New("this is neither the name nor the ARN of a secret (and not shown, as it may be the secret itself): write one such as tailscale/auth-key; a :json-key suffix needs the full ARN, or ROUTER_AUTH_SECRET_KEY")
	}
	return awsapi.SecretRef{ID: s}, nil
}

// The name in an ARN is that of the secret with a hyphen and six characters appended.
var (
	nameInARN = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,519}$`)
	partition = regexp.MustCompile(`^aws[a-z-]*$`)
	account   = regexp.MustCompile(`^\d{12}$`)
)

// parseSecretARN parses the ARN of a secret with the optional suffix that ECS defines for
// environment variables: secret:NAME[:JSON-KEY[:VERSION-STAGE[:VERSION-ID]]].
func parseSecretARN(s string) (awsapi.SecretRef, error) {
	arn, ok := awsapi.ParseARN(s)
	kind, rest, _ := strings.Cut(arn.Resource, ":")
	name, suffix, _ := strings.Cut(rest, ":")
	if !ok || arn.Service != "secretsmanager" || kind != "secret" || arn.Region == "" ||
		!partition.MatchString(arn.Partition) || !account.MatchString(arn.Account) || !nameInARN.MatchString(name) {
		return awsapi.SecretRef{}, fmt.Errorf("%s is not the ARN of a Secrets Manager secret or an SSM parameter: write one such as arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf", quote(s))
	}
	parts := strings.Split(suffix, ":")
	if len(parts) > 3 {
		return awsapi.SecretRef{}, fmt.Errorf("%s has too many parts: after the secret's name, write at most :json-key:version-stage:version-id", quote(s))
	}
	arn.Resource = "secret:" + name
	ref := awsapi.SecretRef{ID: arn.String()}
	for i, to := range []*string{&ref.JSONKey, &ref.VersionStage, &ref.VersionID} {
		if i < len(parts) {
			*to = parts[i]
		}
	}
	return ref, nil
}

// The name in a parameter's ARN has no leading slash. A selector is a version or a label.
var (
	parameterName = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){0,14}$`)
	selector      = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)
)

// parseParameterRef parses the ARN of a parameter, with an optional version or label.
func parseParameterRef(s string) (awsapi.ParameterRef, error) {
	ref, ok := awsapi.ParseParameterRef(s)
	arn, _ := awsapi.ParseARN(ref.ARN)
	if !ok || !partition.MatchString(arn.Partition) || !account.MatchString(arn.Account) ||
		!parameterName.MatchString(strings.TrimPrefix(arn.Resource, "parameter/")) || ref.Selector != "" && !selector.MatchString(ref.Selector) {
		return awsapi.ParameterRef{}, fmt.Errorf("%s is not the ARN of an SSM parameter: write one such as arn:aws:ssm:eu-west-1:123456789012:parameter/tailscale/auth-key, with a version or label at the end if any (:3)", quote(s))
	}
	return ref, nil
}
