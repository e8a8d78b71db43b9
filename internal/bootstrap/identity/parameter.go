package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

var parameter = &Kind{
	Syntax: "the ARN of an SSM parameter", Help: "for one router, as the official image has it; ?kmsKey=KEY encrypts it with that KMS key",
	Example: exampleParameter,
	Lasting: true, Small: true, One: true, parse: parseParameter,
}

const exampleParameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/router/state"

// parameterSource keeps the state of one router in an SSM parameter, in the form in which
// tailscaled does, so that either continues the other's node.
type parameterSource struct {
	arn    string
	kmsKey string // ID, ARN or alias; "" means the account's alias/aws/ssm
}

func parseParameter(value string) (Source, bool, error) {
	if !strings.HasPrefix(value, "arn:") {
		return nil, false, nil
	}
	arn, query, _ := strings.Cut(value, "?")
	ref, ok := awsapi.ParseParameterRef(arn)
	switch {
	case !ok:
		return nil, true, fmt.Errorf("%q is not the ARN of an SSM parameter: write one such as %s, or dynamodb:TABLE for a table", arn, exampleParameter)
	case ref.Selector != "":
		return nil, true, fmt.Errorf("%q names a version or label, which cannot be written: leave out :%s", arn, ref.Selector)
	}
	s := parameterSource{arn: arn}
	options, err := url.ParseQuery(query)
	if err != nil {
		return nil, true, fmt.Errorf("the options %q are malformed: write ?kmsKey=KEY", query)
	}
	for name, values := range options {
		if name != "kmsKey" && name != "kms" || len(options) > 1 || len(values) != 1 || values[0] == "" {
			return nil, true, fmt.Errorf("the option %q is unknown, empty or repeated: write ?kmsKey=KEY as for tailscaled, or ?kms=KEY", name)
		}
		s.kmsKey = values[0]
	}
	if s.kmsKey != "" && !strings.ContainsAny(s.kmsKey, "/:") { // as tailscaled does
		s.kmsKey = "alias/" + s.kmsKey
	}
	return s, true, nil
}

func (s parameterSource) String() string {
	if s.kmsKey != "" {
		return s.arn + "?kmsKey=" + s.kmsKey
	}
	return s.arn
}

func (parameterSource) kind() *Kind { return parameter }

func (s parameterSource) Needs() []iam.Need {
	keep := func(iam.Scope) []iam.Statement {
		list := []iam.Statement{{
			Sid: "KeepState", Effect: "Allow",
			Action: []string{awsapi.GetParameter.Name, awsapi.PutParameter.Name}, Resource: []string{s.arn},
		}}
		if key, ok := awsapi.ParseARN(s.kmsKey); ok {
			list = append(list, encryptState(key.String(), "kms:Encrypt"))
		}
		return list
	}
	return []iam.Need{{Action: awsapi.GetParameter, Allow: keep}, {Action: awsapi.PutParameter, Allow: func(iam.Scope) []iam.Statement { return nil }}}
}

// encryptState allows the use of a KMS key.
func encryptState(key string, more ...string) iam.Statement {
	return iam.Statement{
		Sid: "EncryptState", Effect: "Allow",
		Action: append([]string{awsapi.GenerateDataKey.Name, awsapi.Decrypt.Name}, more...), Resource: []string{key},
	}
}

func (s parameterSource) open(ctx context.Context, c Config, _ func(error)) (*Identity, error) {
	client, err := c.Place.AWS(ctx)
	if err != nil {
		return nil, err
	}
	kept := &parameterState{source: s, client: client}
	value, err := client.Parameter(ctx, s.arn)
	switch {
	case problem.CodeOf(err, "") == problem.CredentialMissing: // Save creates it
	case err != nil:
		return nil, problem.Wrapf(err, "reading ROUTER_STATE")
	default:
		kept.text = []byte(value.Value.Reveal())
	}
	return &Identity{State: kept}, nil
}

func (s parameterSource) examine(ctx context.Context, c Config) (string, error) {
	i, err := s.open(ctx, c, nil)
	if err != nil {
		return "", err
	}
	if n := len(i.State.(*parameterState).text); n > 0 {
		return fmt.Sprintf("%s: %d bytes", s.arn, n), nil
	}
	return s.arn + ": no node yet", nil
}

// parameterState is the state in a parameter. Load and Save are not called concurrently.
type parameterState struct {
	source parameterSource
	client *awsapi.Client
	text   []byte // in the parameter
}

// String implements [State].
func (p *parameterState) String() string { return p.source.arn }

// Load implements [State].
func (p *parameterState) Load() ([]byte, error) { return p.text, nil }

// saveTimeout bounds one attempt to save.
const saveTimeout = 10 * time.Second

// Save implements [State]. It writes only changes: the parameter's history has 100 versions.
// Without white space, the state of a router fits a standard parameter, which is free.
func (p *parameterState) Save(text []byte) error {
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return errors.New("the state is not JSON")
	}
	if bytes.Equal(compact.Bytes(), p.text) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	if _, err := p.client.PutParameter(ctx, p.source.arn, secret.String(compact.String()), p.source.kmsKey); err != nil {
		p.text = nil // it may have been stored
		return err
	}
	p.text = compact.Bytes()
	return nil
}
