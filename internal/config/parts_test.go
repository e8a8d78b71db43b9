package config

import (
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/awsapi"
)

func TestParseSecretRef(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale/key-AbCdEf"
	for s, want := range map[string]awsapi.SecretRef{
		"tailscale/auth-key":      {ID: "tailscale/auth-key"},
		arn:                       {ID: arn},
		arn + ":password::":       {ID: arn, JSONKey: "password"},
		arn + "::AWSPREVIOUS:":    {ID: arn, VersionStage: "AWSPREVIOUS"},
		arn + ":::0b1e-11":        {ID: arn, VersionID: "0b1e-11"},
		arn + ":a:AWSCURRENT:id1": {ID: arn, JSONKey: "a", VersionStage: "AWSCURRENT", VersionID: "id1"},
		arn + ":password":         {ID: arn, JSONKey: "password"},
	} {
		if got, err := parseSecretRef(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for id, region := range map[string]string{arn: "eu-west-1", "name": "", "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:x": "cn-north-1"} {
		ref, err := parseSecretRef(id)
		if err != nil || ref.Region() != region || ref.IsZero() {
			t.Errorf("%s: %q, %v", id, ref.Region(), err)
		}
	}
	if !(awsapi.SecretRef{}).IsZero() {
		t.Error("the zero reference names something")
	}
}

func TestParseParameterRef(t *testing.T) {
	const arn = "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/tailscale/auth-key"
	for s, want := range map[string]awsapi.ParameterRef{
		arn:             {ARN: arn},
		arn + ":12":     {ARN: arn, Selector: "12"},
		arn + ":stable": {ARN: arn, Selector: "stable"},
	} {
		for key, wantKey := range map[string]string{"": "", "password": "password"} {
			want.JSONKey = wantKey
			c := load(t, nil, "ROUTER_AUTH_SECRET="+s, "ROUTER_AUTH_SECRET_KEY="+key)
			if c.Credential.Parameter != want || !c.Credential.Secret.IsZero() || c.Credential.Region() != "us-gov-west-1" || c.Credential.Stored() != arn {
				t.Errorf("%s: %+v", s, c.Credential)
			}
		}
	}
}

func TestSplitWords(t *testing.T) {
	for s, want := range map[string][]string{
		"":                  nil,
		"  ":                nil,
		"a b\tc\nd":         {"a", "b", "c", "d"},
		`a' 'b "c d"`:       {"a b", "c d"},
		`'' ""`:             {"", ""},
		`a\ b \'`:           {"a b", "'"},
		`"a\"b\\c\d" '\n'`:  {`a"b\c\d`, `\n`},
		`--x='a "b"'--y`:    {`--x=a "b"--y`},
		`"it's" 'say "hi"'`: {"it's", `say "hi"`},
	} {
		if got, err := splitWords(s); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", s, got, err, want)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Second: "10s", time.Minute: "1m", 10 * time.Minute: "10m", 110 * time.Second: "1m50s",
		time.Hour: "1h", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
