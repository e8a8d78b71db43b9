package credential

import (
	"context"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/secret"
)

// Settings are the part of the configuration that names a credential. Of its
// sources the configuration lets at most one through.
type Settings struct {
	Secret  awsapi.SecretRef // ROUTER_AUTH_SECRET; zero is none
	AuthKey secret.String    // TS_AUTHKEY: a literal auth key or OAuth client secret

	// Workload identity federation; both or none.
	ClientID, Audience string

	// How keys are made that the router mints.
	APIURL string   // the API that makes them; "" is Tailscale's
	Tags   []string // what they give to the node, each "tag:…"
}

// kinds are all kinds of credential sources. The first that the settings name
// counts; the last is there if none is named. Configuration check, IAM policy and
// messages derive from this table and from [source].
var kinds = []*Kind{stored, literal, federation, state}

// Kind is a kind of credential source, defined in a file of its own.
type Kind struct {
	// Setting is the variable that selects it; "" if none is named.
	Setting string
	// Advice completes "set …" for operators who have no credential yet.
	Advice string
	// Labels are the values of Choice.Source that it may have.
	Labels []string

	named func(Settings) bool
	open  func(Config) source
	// needs returns what the source needs of AWS; nil is nothing.
	needs func(Settings) []iam.Need
}

// source is where auth keys come from. Its methods are not called concurrently.
type source interface {
	choice() Choice
	// look reads as much as can be read without using anything up: it makes no key.
	look(ctx context.Context) error
	// key returns a key to register with, made now where the source makes keys.
	key(ctx context.Context) (key secret.String, from string, err error)
	// refused reports that control refused the key that was returned last.
	refused()
	// known returns what was read so far.
	known() Known
}

// kind returns the kind of source that the settings name.
func (s Settings) kind() *Kind {
	for _, k := range kinds {
		if k.named(s) {
			return k
		}
	}
	return state
}

// Needs returns what the source of the credential needs of AWS.
func (s Settings) Needs() []iam.Need {
	if k := s.kind(); k.needs != nil {
		return k.needs(s)
	}
	return nil
}

// Variables lists the variables of which each selects a source.
func Variables() (list []string) {
	for _, k := range kinds {
		if k.Setting != "" {
			list = append(list, k.Setting)
		}
	}
	return list
}

// Advice returns how to name a credential: "set A to …, B to …, or C …".
func Advice() string {
	var list []string
	for _, k := range kinds {
		if k.Advice != "" {
			list = append(list, k.Advice)
		}
	}
	last := len(list) - 1
	return "set " + strings.Join(list[:last], ", ") + ", or " + list[last]
}
