package bootstrap

import (
	"context"
	"errors"
	"fmt"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/secret"
)

// Credential returns the auth key and says where it is from: "TS_AUTHKEY", or
// the secret with its version. It asks at every call, so that a rotated secret
// is seen. No error contains a byte of the payload.
func (b *Bootstrap) Credential(ctx context.Context) (key secret.String, source string, err error) {
	if b.config.AuthKey != "" {
		key, err := parsePlain(b.config.AuthKey.Reveal())
		if err != nil {
			return "", "", fmt.Errorf("using TS_AUTHKEY: %w", err)
		}
		return key, "TS_AUTHKEY", nil
	}
	if b.config.SecretID == "" {
		return "", "", errors.New("finding a credential: none is named; set ROUTER_AUTH_SECRET to a Secrets Manager name or ARN, or TS_AUTHKEY to an auth key")
	}
	ref := awsapi.SecretRef{
		ID:           b.config.SecretID,
		VersionStage: b.config.SecretVersionStage,
		VersionID:    b.config.SecretVersionID,
	}
	client, err := b.client(ctx)
	if err != nil {
		return "", "", fmt.Errorf("reading the %v of ROUTER_AUTH_SECRET: %w", ref, err)
	}
	value, err := client.Secret(ctx, ref)
	if err != nil {
		return "", "", fmt.Errorf("reading ROUTER_AUTH_SECRET: %w", err)
	}
	key, err = parsePayload(value.Value.Reveal(), b.config.SecretJSONKey)
	if err != nil {
		return "", "", fmt.Errorf("using the %v of ROUTER_AUTH_SECRET: %w", ref, err)
	}
	return key, fmt.Sprintf("secret %s (version %s)", ref.ID, value.VersionID), nil
}
