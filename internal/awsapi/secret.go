package awsapi

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"subnetrouter/internal/secret"
)

// SecretRef refers to a value in a secret of Secrets Manager. The version is AWSCURRENT if
// neither stage nor version ID is set.
type SecretRef struct {
	ID           string // name or ARN, without ECS's suffix; an ARN's region wins over the client's
	JSONKey      string // the key of the value in a JSON payload; "" means the known names. [Client.Secret] ignores it
	VersionStage string
	VersionID    string
}

// IsZero reports whether r names no secret.
func (r SecretRef) IsZero() bool { return r.ID == "" }

// Region returns the region in an ARN, or "" for a name: then the secret is in
// the task's own region.
func (r SecretRef) Region() string {
	arn, _ := ParseARN(r.ID)
	return arn.Region
}

// GetSecretValue is the action that [Client.Secret] needs.
var GetSecretValue = Action{Name: "secretsmanager:GetSecretValue"}

// SecretValue is one version of a secret.
type SecretValue struct {
	Value     secret.String // SecretString, or the bytes of SecretBinary
	VersionID string
	Created   time.Time // when this version was stored
}

// Secret fetches a secret's value.
func (c *Client) Secret(ctx context.Context, ref SecretRef) (SecretValue, error) {
	region := c.Region()
	if named := ref.Region(); named != "" {
		region = named
	}
	req := request{
		op:       GetSecretValue.Name,
		resource: ref.String(),
		region:   region,
		allow:    fmt.Sprintf("allow secretsmanager:GetSecretValue on %s in the task role's policy", ref.ID),
		find:     fmt.Sprintf("create or restore the secret in %s, or correct its name, version stage or version id", region),
		kms:      "allow kms:Decrypt on the secret's KMS key in the task role's policy and in the key's own policy",
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
