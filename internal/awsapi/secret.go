package awsapi

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"subnetrouter/internal/secret"
)

// SecretRef names one version of a secret; AWSCURRENT if neither stage nor
// version is given.
type SecretRef struct {
	ID           string // name or ARN; an ARN's region wins over the client's
	VersionStage string
	VersionID    string
}

// SecretValue is one version of a secret.
type SecretValue struct {
	Value     secret.String // SecretString, or the bytes of SecretBinary
	VersionID string
	Created   time.Time // when this version was stored
}

// Secret fetches a secret's value.
func (c *Client) Secret(ctx context.Context, ref SecretRef) (SecretValue, error) {
	region := c.Region()
	if arn, ok := ParseARN(ref.ID); ok && arn.Region != "" {
		region = arn.Region
	}
	req := request{
		op:       "secretsmanager:GetSecretValue",
		resource: ref.String(),
		region:   region,
		allow:    fmt.Sprintf("allow secretsmanager:GetSecretValue on %s in the task role's policy", ref.ID),
		find:     fmt.Sprintf("create or restore the secret in %s, or correct its name, version stage or version id", region),
		// A secret marked for deletion is an invalid request.
		missing: map[string]bool{"ResourceNotFoundException": true, "InvalidRequestException": true},
	}
	in := &secretsmanager.GetSecretValueInput{SecretId: &ref.ID}
	if ref.VersionStage != "" {
		in.VersionStage = &ref.VersionStage
	}
	if ref.VersionID != "" {
		in.VersionId = &ref.VersionID
	}
	var out *secretsmanager.GetSecretValueOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.secrets.GetSecretValue(ctx, in, func(o *secretsmanager.Options) { o.Region = region })
		return err
	})
	if err != nil {
		return SecretValue{}, err
	}
	value := SecretValue{
		Value:     secret.String(aws.ToString(out.SecretString)),
		VersionID: aws.ToString(out.VersionId),
		Created:   aws.ToTime(out.CreatedDate),
	}
	if out.SecretString == nil {
		value.Value = secret.String(out.SecretBinary)
	}
	return value, nil
}

// String describes the secret for an error, as in: secret "router/key", version stage
// AWSPENDING.
func (r SecretRef) String() string {
	s := fmt.Sprintf("secret %q", r.ID)
	if r.VersionStage != "" {
		s += ", version stage " + r.VersionStage
	}
	if r.VersionID != "" {
		s += ", version " + r.VersionID
	}
	return s
}
