package bootstrap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/tailnettest"
)

const (
	getParameter = "ssm:GetParameter"
	parameterARN = "arn:aws:ssm:eu-west-1:123456789012:parameter/router/key"
)

// put stores versions of the parameter; the last one is current.
func (a *aws) put(values ...string) {
	a.Server.Update(func(w *awstest.World) {
		w.Parameters = map[string]awstest.Parameter{"/router/key": {Values: values, Labels: map[string]int{"stable": 1}}}
	})
}

// inParameter is the configuration with the credential in the parameter.
func (a *aws) inParameter(selector, jsonKey string) bootstrap.Config {
	c := a.config("vpc")
	c.Credential = credential.Settings{Parameter: awsapi.ParameterRef{ARN: parameterARN, Selector: selector, JSONKey: jsonKey}}
	return c
}

// TestParameterRotation: each key reads the parameter again, a refused version is used again while it is
// the current one, and a new version is used at once.
func TestParameterRotation(t *testing.T) {
	a := start(t, fargate())
	a.put("tskey-auth-first")
	b := bootstrap.New(a.inParameter("", ""))
	pinned, labelled := bootstrap.New(a.inParameter("1", "")), bootstrap.New(a.inParameter("stable", ""))
	give := func(b *bootstrap.Bootstrap, want string, version int) {
		t.Helper()
		key, from, err := b.Credential(t.Context())
		if err != nil || key.Reveal() != want || from != fmt.Sprintf("parameter %s (version %d)", parameterARN, version) {
			t.Errorf("got %q from %q, %v; want %q, version %d", key.Reveal(), from, err, want, version)
		}
		if known := b.CredentialKnown(); known.Version != fmt.Sprint(version) || known.Read.IsZero() || known.Created.IsZero() || known.Err != nil {
			t.Errorf("known: %+v", known)
		}
	}
	for range 2 {
		give(b, "tskey-auth-first", 1)
		b.CredentialRefused()
	}
	a.put("tskey-auth-first", `{"auth_key": "tskey-auth-second", "expires_at": "2027-01-02T03:04:05Z"}`)
	give(b, "tskey-auth-second", 2)
	give(pinned, "tskey-auth-first", 1)
	give(labelled, "tskey-auth-first", 1)
	if known := b.CredentialKnown(); known.Expires.IsZero() {
		t.Error("the expiry is unknown")
	}
	if choice := b.CredentialChoice(); choice.Source != credential.FromParameterKey || choice.What != "ROUTER_AUTH_SECRET: SSM parameter "+parameterARN {
		t.Errorf("chosen %+v", choice)
	}
	for _, action := range a.Server.Calls() {
		if action != getParameter {
			t.Errorf("called %s", action)
		}
	}
}

// TestParameterPayloads: the payload has the forms of a secret's.
func TestParameterPayloads(t *testing.T) {
	a := start(t, fargate())
	client := tailnettest.NewOAuthClient(tag)
	net := api(t, client)
	for _, test := range []struct{ value, jsonKey, source string }{
		{client.Secret, "", credential.FromParameterClient},
		{`{"client_id":"` + client.ID + `","client_secret":"` + client.Secret + `"}`, "", credential.FromParameterClient},
		{`{"mine":"tskey-auth-kMINE","other":1}`, "mine", credential.FromParameterKey},
		{"TS_AUTHKEY=tskey-auth-kLINE\n", "", credential.FromParameterKey},
	} {
		a.put(test.value)
		c := a.inParameter("", test.jsonKey)
		c.Credential.APIURL, c.Credential.Tags = net.ControlURL(), []string{tag}
		b := bootstrap.New(c)
		if err := b.LookAtCredential(t.Context()); err != nil {
			t.Errorf("%s: %v", test.source, err)
		}
		before := len(a.Server.Calls())
		key, _, err := b.Credential(t.Context())
		if err != nil || !strings.HasPrefix(key.Reveal(), "tskey-auth-k") || b.CredentialChoice().Source != test.source {
			t.Errorf("%s: %q, %v, chosen %+v", test.source, key.Reveal(), err, b.CredentialChoice())
		}
		if len(a.Server.Calls()) != before {
			t.Errorf("%s: the reading of the look was not used", test.source)
		}
	}
}

// TestParameterFailures: each failure names its fix, and neither it nor the log has the value.
func TestParameterFailures(t *testing.T) {
	const hidden = "kH1DD3N"
	a := start(t, fargate())
	for name, test := range map[string]struct {
		value   string
		failure awstest.Failure
		code    problem.Code
		want    string
	}{
		"missing":      {"", awstest.Failure{}, problem.CredentialMissing, "create the parameter in eu-west-1"},
		"denied":       {"tskey-auth-" + hidden, awstest.Denied(getParameter, parameterARN), problem.CredentialDenied, "allow ssm:GetParameter on " + parameterARN + " in the task role's policy"},
		"KMS denied":   {"tskey-auth-" + hidden, awstest.ParameterKMSDenied(), problem.CredentialDenied, "allow kms:Decrypt on the parameter's KMS key"},
		"malformed":    {"nothing of use " + hidden, awstest.Failure{}, problem.CredentialMalformed, `using the parameter "` + parameterARN + `" of ROUTER_AUTH_SECRET`},
		"cut":          {"tskey-auth-" + hidden, awstest.Failure{Cut: true}, problem.CredentialUnreachable, "com.amazonaws.eu-west-1.ssm"},
		"throttled":    {"tskey-auth-" + hidden, awstest.Failure{Status: 400, Code: "ThrottlingException", Message: "Rate exceeded"}, problem.CredentialThrottled, "Rate exceeded"},
		"two versions": {`{"auth_key":"tskey-auth-` + hidden + `","authkey":"tskey-auth-other"}`, awstest.Failure{}, problem.CredentialMalformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a.put(test.value)
			if test.value == "" {
				a.Server.Update(func(w *awstest.World) { w.Parameters = nil })
			}
			a.Server.Fail(getParameter, test.failure)
			defer a.Server.Fail(getParameter, awstest.Failure{})
			b := bootstrap.New(a.inParameter("", ""))
			look := b.LookAtCredential(t.Context())
			_, _, err := b.Credential(t.Context())
			for _, err := range []error{look, err} {
				if err == nil || problem.CodeOf(err, "") != test.code || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v: %v", problem.CodeOf(err, ""), err)
				}
			}
			if known := b.CredentialKnown(); !errors.Is(known.Err, err) {
				t.Errorf("known: %v", known.Err)
			}
			if all := fmt.Sprintf("%v %+v %+v %s", err, b.CredentialKnown(), b.CredentialChoice(), a.log.String()); strings.Contains(all, hidden) {
				t.Errorf("the value was printed: %s", all)
			}
		})
	}
}

func TestParameterPolicy(t *testing.T) {
	const kms = "arn:aws:kms:eu-west-1:123456789012:key/k"
	read := `{"Sid":"ReadCredential","Effect":"Allow","Action":["ssm:GetParameter"],"Resource":["` + parameterARN + `"]}`
	for key, want := range map[string]string{
		"":  `[` + read + `]`,
		kms: `[` + read + `,{"Sid":"DecryptCredential","Effect":"Allow","Action":["kms:Decrypt"],"Resource":["` + kms + `"],"Condition":{"StringLike":{"kms:ViaService":"ssm.eu-west-1.amazonaws.com"}}}]`,
	} {
		c := bootstrap.Config{Credential: credential.Settings{Parameter: awsapi.ParameterRef{ARN: parameterARN, Selector: "3"}}, Routes: routed("10.0.0.0/16")}
		policy, err := bootstrap.New(c).Policy(context.Background(), "us-east-1", key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(policy.Statement)
		if err != nil || string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if actions := bootstrap.Actions(bootstrap.Config{Credential: credential.Settings{Parameter: awsapi.ParameterRef{ARN: parameterARN}}, Routes: routed("10.0.0.0/16")}, false); len(actions) != 1 || actions[0] != getParameter {
		t.Errorf("actions %v", actions)
	}
}
