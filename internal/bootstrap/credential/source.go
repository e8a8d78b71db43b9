package credential

import (
	"context"
	"slices"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/secret"
)

// Settings are the part of the configuration that selects a credential. Package config
// accepts at most one source.
type Settings struct {
	// ROUTER_AUTH_SECRET; zero means none. At most one of them is set.
	Secret    awsapi.SecretRef
	Parameter awsapi.ParameterRef

	AuthKey secret.String // TS_AUTHKEY: a literal auth key or OAuth client secret

	// Workload identity federation; both or none.
	ClientID, Audience string

	// For minted keys.
	APIURL string   // the API that mints them; "" means Tailscale's
	Tags   []string // the tags of the node, each "tag:…"
}

// kinds are all kinds of credential sources. The first one that the settings name is used;
// the last one is used if they name none. Configuration check, IAM policy and messages
// derive from this table and from [source].
var kinds = []*Kind{stored, parameter, literal, federation, state}

// Kind is a kind of credential source, defined in a file of its own.
type Kind struct {
	// Setting is the variable that selects it; "" for the kind without one. The kinds of
	// stored credentials share one.
	Setting string
	// Advice completes "set …" for operators who have no credential yet. Kinds with the
	// same variable have the same advice.
	Advice string
	// Labels are the possible values of Choice.Source.
	Labels []string

	named func(Settings) bool
	open  func(Config) source
	// needs returns the AWS actions that the source calls; nil means none.
	needs func(Settings) []iam.Need
}

// source supplies auth keys. The caller of each method holds Provider.inUse.
type source interface {
	choice() Choice
	// look reads the credential, and gets an access token if it is a client's. It mints
	// no key.
	look(ctx context.Context) error
	// key returns a key to register with; sources with a client mint it now.
	key(ctx context.Context) (key secret.String, from string, err error)
	// apiClient returns the minter of the source's client of Tailscale's API; nil if it has
	// none.
	apiClient(ctx context.Context) (*minter, error)
	// refused reports that control refused the key that was returned last.
	refused()
	// status returns the status after the last look or key.
	status() Known
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

// Needs returns the AWS actions that the credential's source calls.
func (s Settings) Needs() []iam.Need {
	if k := s.kind(); k.needs != nil {
		return k.needs(s)
	}
	return nil
}

// Stored returns the name or ARN of the stored credential, or "" if there is none.
func (s Settings) Stored() string {
	if !s.Parameter.IsZero() {
		return s.Parameter.ARN
	}
	return s.Secret.ID
}

// Region returns the region in the ARN of the stored credential, or "".
func (s Settings) Region() string {
	if !s.Parameter.IsZero() {
		return s.Parameter.Region()
	}
	return s.Secret.Region()
}

// Variables lists the variables that select a source, each once.
func Variables() (list []string) {
	for _, k := range kinds {
		if k.Setting != "" && !slices.Contains(list, k.Setting) {
			list = append(list, k.Setting)
		}
	}
	return list
}

// Advice returns the ways to configure a credential: "set A to …, B to …, or C …".
func Advice() string {
	var list []string
	for _, k := range kinds {
		if k.Advice != "" && !slices.Contains(list, k.Advice) {
			list = append(list, k.Advice)
		}
	}
	last := len(list) - 1
	return "set " + strings.Join(list[:last], ", ") + ", or " + list[last]
}
