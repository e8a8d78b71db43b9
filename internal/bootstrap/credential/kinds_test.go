package credential

import (
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/place"
)

// TestKindsAreComplete checks the table: each kind has all fields from which others derive,
// and only the last one has no setting.
func TestKindsAreComplete(t *testing.T) {
	var labels []string
	for i, k := range kinds {
		last := i == len(kinds)-1
		if k.named == nil || k.open == nil || len(k.Labels) == 0 || (k.Setting == "") != last || (k.Advice == "") != last {
			t.Errorf("kind %d (%q) lacks a field: %+v", i, k.Setting, k)
			continue
		}
		if !strings.Contains(Advice(), k.Advice) {
			t.Errorf("the advice lacks %q: %s", k.Advice, Advice())
		}
		for _, l := range k.Labels {
			if slices.Contains(labels, l) {
				t.Errorf("the label %s is used twice", l)
			}
			labels = append(labels, l)
		}
	}
	if !kinds[len(kinds)-1].named(Settings{}) {
		t.Error("without a setting there is no source")
	}
}

// TestPrecedence adds one setting at a time, from the last kind to the first.
func TestPrecedence(t *testing.T) {
	var s Settings
	steps := []struct {
		add  func()
		want string
	}{
		{func() {}, FromState},
		{func() { s.ClientID, s.Audience = "k1", "api.tailscale.com/k1" }, FromFederation},
		{func() { s.AuthKey = "tskey-auth-k1-x" }, FromVariableKey},
		{func() {
			s.Parameter = awsapi.ParameterRef{ARN: "arn:aws:ssm:eu-west-1:123456789012:parameter/router/key"}
		}, FromParameter},
		{func() { s.Secret = awsapi.SecretRef{ID: "router/key"} }, FromSecret},
	}
	if len(steps) != len(kinds) {
		t.Errorf("%d kinds, and steps for %d", len(kinds), len(steps))
	}
	for i, step := range steps {
		step.add()
		got := New(Config{Settings: s, Place: place.New(place.Config{})}).Choice().Source
		if got != step.want || !slices.Contains(kinds[len(kinds)-1-i].Labels, got) {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}
