package awsapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// ParameterRef refers to a value in Systems Manager's Parameter Store. The version is the
// current one if Selector is "".
type ParameterRef struct {
	ARN      string // without selector
	Selector string // a version or a label
	JSONKey  string // as in [SecretRef]
}

// ParseParameterRef parses the ARN of a parameter, such as
// arn:aws:ssm:eu-west-1:123456789012:parameter/router/key, which may end in a selector such
// as :3. ok is false if s is not one.
func ParseParameterRef(s string) (p ParameterRef, ok bool) {
	arn, ok := ParseARN(s)
	var selected bool
	arn.Resource, p.Selector, selected = strings.Cut(arn.Resource, ":")
	name, ofParameter := strings.CutPrefix(arn.Resource, "parameter/")
	if !ok || arn.Service != "ssm" || !ofParameter || arn.Region == "" ||
		name == "" || strings.Trim(name, "/") != name || selected && p.Selector == "" {
		return ParameterRef{}, false
	}
	p.ARN = arn.String()
	return p, true
}

// IsZero reports whether p names no parameter.
func (p ParameterRef) IsZero() bool { return p.ARN == "" }

// Region returns the region in the ARN.
func (p ParameterRef) Region() string {
	arn, _ := ParseARN(p.ARN)
	return arn.Region
}

// ID returns the ARN with its selector.
func (p ParameterRef) ID() string {
	if p.Selector != "" {
		return p.ARN + ":" + p.Selector
	}
	return p.ARN
}

// String describes the parameter for an error, as in: parameter
// "arn:aws:ssm:eu-west-1:123456789012:parameter/router/key".
func (p ParameterRef) String() string { return fmt.Sprintf("parameter %q", p.ID()) }

// ParameterValue is one version of a parameter.
type ParameterValue struct {
	Value    secret.String
	Type     string // "SecureString", "String" or "StringList"
	Version  int64
	Modified time.Time // when this version was stored
}

// GetParameter and PutParameter are the actions that [Client.Parameter] and
// [Client.PutParameter] need. The latter may need both.
var (
	GetParameter = Action{Name: "ssm:GetParameter"}
	PutParameter = Action{Name: "ssm:PutParameter"}
)

// The largest values in bytes that Parameter Store takes, by the parameter's tier.
const (
	MaxStandardParameter = 4096
	MaxAdvancedParameter = 8192
)

// Parameter fetches the value of a parameter, decrypted.
func (c *Client) Parameter(ctx context.Context, arn string) (ParameterValue, error) {
	req, options, err := c.parameter(GetParameter, arn)
	if err != nil {
		return ParameterValue{}, err
	}
	p, err := c.getParameter(ctx, req, arn, true, options)
	if err != nil {
		return ParameterValue{}, err
	}
	return ParameterValue{
		Value: secret.String(aws.ToString(p.Value)), Type: string(p.Type),
		Version: p.Version, Modified: aws.ToTime(p.LastModifiedDate),
	}, nil
}

func (c *Client) getParameter(ctx context.Context, req request, arn string, decrypt bool, options func(*ssm.Options)) (types.Parameter, error) {
	var out *ssm.GetParameterOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: &arn, WithDecryption: &decrypt}, options)
		return err
	})
	if err != nil {
		return types.Parameter{}, err
	}
	if out.Parameter == nil {
		return types.Parameter{}, req.fail(problem.CredentialUnreachable, "", "the answer contains no parameter", "")
	}
	return *out.Parameter, nil
}

// PutParameter stores a new version of a parameter as a SecureString and returns the
// version. It creates the parameter if there is none. kmsKey is the ID, ARN or alias of the
// KMS key; "" means the account's alias/aws/ssm. A value above [MaxStandardParameter] makes
// an advanced parameter, which costs money and cannot be made standard again.
//
// After an error the value may have been stored nevertheless, and the SDK's retries may
// store it more than once.
func (c *Client) PutParameter(ctx context.Context, arn string, value secret.String, kmsKey string) (version int64, err error) {
	req, options, err := c.parameter(PutParameter, arn)
	if err != nil {
		return 0, err
	}
	ref, _ := ParseParameterRef(arn)
	if ref.Selector != "" {
		return 0, req.fail("", "", "a version or label cannot be written", "leave out :"+ref.Selector)
	}
	if n := len(value.Reveal()); n > MaxAdvancedParameter {
		return 0, req.fail("", "", fmt.Sprintf("the value has %d bytes, more than the %d of an advanced parameter (%d of a standard one)", n, MaxAdvancedParameter, MaxStandardParameter),
			"use a DynamoDB table instead")
	}
	name, err := c.parameterName(ctx, ref, options)
	if err != nil {
		return 0, err
	}
	in := &ssm.PutParameterInput{
		Name: &name, Value: aws.String(value.Reveal()), Type: types.ParameterTypeSecureString,
		Overwrite: aws.Bool(true), Tier: types.ParameterTierIntelligentTiering,
	}
	if kmsKey != "" {
		in.KeyId = &kmsKey
	}
	var out *ssm.PutParameterOutput
	err = c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ssm.PutParameter(ctx, in, options)
		return err
	})
	if err != nil {
		return 0, err
	}
	return out.Version, nil
}

// parameterName returns the name of a parameter, which PutParameter requires instead of its
// ARN. At the root, "name" and "/name" share an ARN; AWS knows which of them exists.
func (c *Client) parameterName(ctx context.Context, ref ParameterRef, options func(*ssm.Options)) (string, error) {
	_, name, _ := strings.Cut(ref.ARN, ":parameter/")
	if strings.Contains(name, "/") {
		return "/" + name, nil
	}
	req, _, err := c.parameter(GetParameter, ref.ARN)
	if err != nil {
		return "", err
	}
	req.callerCode = true
	p, err := c.getParameter(ctx, req, ref.ARN, false, options)
	switch {
	case isCode(err, "ParameterNotFound"):
		return name, nil
	case err != nil:
		return "", err
	}
	return aws.ToString(p.Name), nil
}

// parameter returns a request for a parameter, and the option that selects its region.
func (c *Client) parameter(a Action, arn string) (request, func(*ssm.Options), error) {
	ref, ok := ParseParameterRef(arn)
	region := c.regionOf(arn)
	req := request{
		op:         a.Name,
		resource:   fmt.Sprintf("parameter %q", arn),
		region:     region,
		callerCode: a.Name == PutParameter.Name,
		allow:      fmt.Sprintf("allow %s on %s in the task role's policy", a.Name, ref.ARN),
		find:       fmt.Sprintf("create the parameter in %s, or correct its name, version or label", region),
		missing:    map[string]bool{"ParameterNotFound": true, "ParameterVersionNotFound": true},
		kms:        "allow kms:Decrypt on the parameter's KMS key in the task role's policy and in the key's own policy",
		fixes: map[string]string{
			"HierarchyTypeMismatchException": "delete the parameter, whose type is not SecureString: AWS cannot change it",
			"ParameterLimitExceeded":         "delete parameters that are no longer used, or ask AWS for a higher limit",
			"TooManyUpdates":                 "let only one router write the parameter",
		},
	}
	if a.Name == PutParameter.Name {
		req.kms = "allow kms:Encrypt, kms:GenerateDataKey and kms:Decrypt on the parameter's KMS key in the task role's policy and in the key's own policy"
	}
	if !ok {
		return request{}, nil, req.fail(problem.CredentialMissing, "", "this is not the ARN of a parameter", "write one such as arn:aws:ssm:eu-west-1:123456789012:parameter/router/key")
	}
	return req, func(o *ssm.Options) { o.Region = region }, nil
}
