package iam

import (
	"encoding/json"
	"slices"
	"testing"

	"subnetrouter/internal/awsapi"
)

func names(list []awsapi.Action) (out []string) {
	for _, a := range list {
		out = append(out, a.Name)
	}
	return out
}

// An action that one source calls only on Fargate keeps its position in the list if
// another source always calls it.
func TestActions(t *testing.T) {
	a, b := awsapi.Action{Name: "ec2:A"}, awsapi.Action{Name: "ec2:B"}
	for _, tc := range []struct {
		needs          []Need
		unknown, known []string
	}{
		{nil, nil, nil},
		{[]Need{{Action: a, UnlessVPCKnown: true}, {Action: b}}, []string{"ec2:A", "ec2:B"}, []string{"ec2:B"}},
		{[]Need{{Action: a, UnlessVPCKnown: true}, {Action: b}, {Action: a}}, []string{"ec2:A", "ec2:B"}, []string{"ec2:A", "ec2:B"}},
	} {
		if got := names(Actions(tc.needs, false)); !slices.Equal(got, tc.unknown) {
			t.Errorf("%v: got %v, want %v", tc.needs, got, tc.unknown)
		}
		if got := names(Actions(tc.needs, true)); !slices.Equal(got, tc.known) {
			t.Errorf("%v with the VPC known: got %v, want %v", tc.needs, got, tc.known)
		}
	}
}

// Needs with the same Sid share a statement, in which "*" stands for all.
func TestStatementsAreMerged(t *testing.T) {
	on := func(resource string) Need {
		return Need{Action: awsapi.Action{Name: "ec2:A"}, Allow: func(Scope) []Statement {
			return []Statement{Allow("A", "ec2:A", resource)}
		}}
	}
	for want, needs := range map[string][]Need{
		`[{"Sid":"A","Effect":"Allow","Action":["ec2:A"],"Resource":["x","y"]}]`: {on("x"), on("y"), on("x")},
		`[{"Sid":"A","Effect":"Allow","Action":["ec2:A"],"Resource":["*"]}]`:     {on("x"), on("*")},
	} {
		got, err := json.Marshal(NewPolicy(needs, false, NewScope("", "", "")).Statement)
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}
