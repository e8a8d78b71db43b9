package credential

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

var parameter = &Kind{
	Setting: "ROUTER_AUTH_SECRET",
	Advice:  adviceStored,
	Labels:  []string{FromParameter, FromParameterKey, FromParameterClient},
	named:   func(s Settings) bool { return !s.Parameter.IsZero() },
	open: func(c Config) source {
		return &parameterSource{holder: newHolder(c, FromParameter, FromParameterKey, FromParameterClient)}
	},
	needs: func(s Settings) []iam.Need {
		return []iam.Need{{Action: awsapi.GetParameter, Allow: s.allowParameter}}
	},
}

// allowParameter allows reading the parameter, and decrypting it if a key is named. IAM knows
// no versions and labels of parameters.
func (s Settings) allowParameter(scope iam.Scope) []iam.Statement {
	read := iam.Allow("ReadCredential", awsapi.GetParameter.Name, s.Parameter.ARN)
	return append([]iam.Statement{read}, scope.Decrypt("ssm", s.Parameter.ARN)...)
}

// parameterSource reads a parameter of Systems Manager's Parameter Store, again for each key,
// so that the next attempt sees a new version.
//
// Parameters have no AWSPENDING. So a refused version is used again while it is the current
// one, as with a secret whose version is configured: a refusal may be temporary, and control's
// answers set the pace.
type parameterSource struct {
	holder

	// prefetched is the result of the last look, as in secretSource.
	prefetched parameterReading
}

type parameterReading struct {
	value awsapi.ParameterValue
	err   error
	at    time.Time
}

func (s *parameterSource) ref() awsapi.ParameterRef { return s.config.Parameter }

func (s *parameterSource) choice() Choice {
	return s.choose("SSM parameter "+s.ref().ID(), s.ref().JSONKey)
}

func (s *parameterSource) read(ctx context.Context) parameterReading {
	client, err := s.config.Place.AWS(ctx)
	if err != nil {
		return parameterReading{err: problem.Wrapf(err, "reading the %v of ROUTER_AUTH_SECRET", s.ref()), at: time.Now()}
	}
	value, err := client.Parameter(ctx, s.ref().ID())
	return parameterReading{value, problem.Wrapf(err, "reading ROUTER_AUTH_SECRET"), time.Now()}
}

// version returns a value for the holder.
func (s *parameterSource) version(v awsapi.ParameterValue) version {
	id := strconv.FormatInt(v.Version, 10)
	return version{
		value: v.Value, id: id, created: v.Modified, of: s.ref().String(),
		where: fmt.Sprintf("parameter %s (version %s)", s.ref().ARN, id), jsonKey: s.ref().JSONKey,
	}
}

func (s *parameterSource) look(ctx context.Context) error {
	s.prefetched = s.read(ctx)
	err := s.prefetched.err
	if err == nil {
		err = s.examine(ctx, s.version(s.prefetched.value))
	}
	s.state.Err = err
	return err
}

func (s *parameterSource) key(ctx context.Context) (key secret.String, from string, err error) {
	defer func() { s.state.Err = err }()
	current := s.prefetched
	s.prefetched = parameterReading{} // for one key only
	if time.Since(current.at) > prefetchTTL {
		current = s.read(ctx)
	}
	if current.err != nil {
		return "", "", current.err
	}
	v := s.version(current.value)
	s.noteRead(v)
	return s.keyFrom(ctx, v)
}

func (s *parameterSource) refused() {}
