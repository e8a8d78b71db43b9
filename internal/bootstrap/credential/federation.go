package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tsapi"
)

var federation = &Kind{
	Setting: "TS_CLIENT_ID",
	Advice:  "TS_CLIENT_ID and TS_AUDIENCE",
	Labels:  []string{FromFederation},
	named:   func(s Settings) bool { return s.ClientID != "" },
	open:    func(c Config) source { return newFederationSource(c) },
	needs: func(s Settings) []iam.Need {
		return []iam.Need{{Action: awsapi.GetWebIdentityToken, Allow: s.allowFederation}}
	},
}

// allowFederation allows identity tokens for the audience only: the action has no
// resource-level permission.
func (s Settings) allowFederation(iam.Scope) []iam.Statement {
	statement := iam.Allow("VouchForRouter", awsapi.GetWebIdentityToken.Name, "*")
	statement.Condition = map[string]map[string]string{
		"ForAllValues:StringEquals": {"sts:IdentityTokenAudience": s.Audience},
		"StringEquals":              {"sts:SigningAlgorithm": "ES384"},
		"NumericLessThanEquals":     {"sts:DurationSeconds": strconv.Itoa(int(awsapi.IdentityLife.Seconds()))},
	}
	return []iam.Statement{statement}
}

// federationSource implements workload identity federation: AWS signs an identity token for
// the task's role, which Tailscale's API exchanges for an access token. Nothing is stored.
// Keys come from its minter, a new one for each registration.
type federationSource struct {
	config Config
	minter *minter
	state  Known
}

func newFederationSource(c Config) *federationSource {
	s := &federationSource{config: c}
	how, _ := c.minting(payload.Attributes{}) // without attributes nothing can disagree
	s.minter = &minter{minting: how, grant: s.exchange}
	return s
}

func (s *federationSource) choice() Choice {
	return Choice{
		FromFederation,
		fmt.Sprintf("workload identity federation: client %s, audience %s", s.config.ClientID, s.config.Audience),
		"TS_CLIENT_ID and TS_AUDIENCE are set: no stored secret; a key is made when control asks for one",
	}
}

// exchange gets an identity token for the task's role from AWS, and an access token for
// that from Tailscale's API. The identity token is used once.
func (s *federationSource) exchange(ctx context.Context) (tsapi.Token, error) {
	client, err := s.config.Place.AWS(ctx)
	if err != nil {
		return tsapi.Token{}, err
	}
	identity, err := client.IdentityToken(ctx, s.config.Audience)
	if err != nil {
		return tsapi.Token{}, err
	}
	token, err := s.minter.api.IdentityToken(ctx, s.config.ClientID, identity.JWT)
	if errors.Is(err, tsapi.ErrRefused) || problem.CodeOf(err, "") == problem.ClockSkew {
		p := *problem.Of(err)
		p.Fix, p.Err = p.Fix+": "+identityClaims(identity.JWT.Reveal()), err
		return token, &p
	}
	return token, err
}

// identityClaims returns the claims of an identity token, to compare with the settings of
// the federated identity. None of them is a secret.
func identityClaims(jwt string) string {
	var claims struct {
		Issuer   string          `json:"iss"`
		Subject  string          `json:"sub"`
		Audience json.RawMessage `json:"aud"` // a string, or a list of them
	}
	if part := strings.Split(jwt, "."); len(part) == 3 {
		text, err := base64.RawURLEncoding.DecodeString(part[1])
		if err == nil && json.Unmarshal(text, &claims) == nil && claims.Issuer != "" {
			return fmt.Sprintf("issuer %s, subject %s, audience %s", claims.Issuer, claims.Subject, strings.Trim(string(claims.Audience), `"[]`))
		}
	}
	return "its identity token is not one that can be read"
}

func (s *federationSource) look(ctx context.Context) error {
	return s.done(s.minter.ensureToken(ctx))
}

func (s *federationSource) key(ctx context.Context) (secret.String, string, error) {
	key, err := s.minter.key(ctx)
	return key, "federated identity " + s.config.ClientID, s.done(err)
}

func (s *federationSource) done(err error) error {
	if err != nil {
		err = problem.Wrapf(err, "using the federated identity of TS_CLIENT_ID")
	} else {
		s.state.Read = time.Now()
	}
	s.state.Err = err
	return err
}

func (s *federationSource) refused() {}

func (s *federationSource) status() Known { return s.state }
