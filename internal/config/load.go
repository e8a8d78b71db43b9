package config

import (
	"errors"
	"flag"
	"reflect"
	"slices"
	"strings"

	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/bootstrap/credential/payload"
)

// Load reads the configuration from arguments (without the program's and the
// command's name) and an environment in the form of os.Environ. Besides those it reads
// only the files that values name with "file:". The flags of own, which may be nil, are
// the command's, and are set from the arguments too.
//
// The error is [flag.ErrHelp] if the arguments ask for help, otherwise an
// [*Error] with all problems.
func Load(args, environ []string, own *flag.FlagSet) (Config, error) {
	r := &report{}
	in, err := readInput(args, environ, own, r)
	if err != nil {
		return Config{}, err
	}
	in.unknown(r)
	in.unsupported(r)
	in.misspelt(r)

	c := Config{SNAT: true}
	if s, _, found, err := in.lookup(find(extraArgs)); found && err == nil {
		in.extra = extraSettings(s, &c, r)
	}
	given := map[string]setting{}
	for _, v := range variables {
		if s, found := in.apply(v, &c, r); found {
			given[v.name] = s
		}
	}
	check(&c, given, r)
	c.moveSecretKey()
	if err := r.err(); err != nil {
		return Config{}, err
	}
	c.Warnings = r.warnings
	return c, nil
}

// moveSecretKey moves ROUTER_AUTH_SECRET_KEY to the reference that it belongs to. The reference has
// no JSON key, or check has reported a problem.
func (c *Config) moveSecretKey() {
	if c.authSecretKey == "" {
		return
	}
	to := &c.Credential.Secret.JSONKey
	if !c.Credential.Parameter.IsZero() {
		to = &c.Credential.Parameter.JSONKey
	}
	*to, c.authSecretKey = c.authSecretKey, ""
}

// LoadCredential reads only the settings that a credential for Tailscale's API needs, for commands
// that call it without a router. None is required. Arguments and errors are those of [Load].
func LoadCredential(args, environ []string, own *flag.FlagSet) (Config, error) {
	r := &report{}
	in, err := readInput(args, environ, own, r)
	if err != nil {
		return Config{}, err
	}
	var c Config
	given := map[string]setting{}
	for _, v := range variables {
		if v.group != credentialGroup && v.name != "ROUTER_CONTROL_URL" && v.name != "ROUTER_API_URL" && v.name != metadataURI {
			continue
		}
		if s, found := in.apply(v, &c, r); found {
			given[v.name] = s
		}
	}
	if slices.ContainsFunc(credential.Variables(), func(name string) bool { return given[name].name != "" }) {
		checkCredential(&c, given, r)
	}
	checkAuthKey(&c, given, r)
	c.moveSecretKey()
	return c, r.err()
}

// LoadListen reads only ROUTER_LISTEN, for commands that ask the running router and need
// none of its credentials. Arguments and errors are those of [Load]; [LocalURL] makes URLs
// of the result.
func LoadListen(args, environ []string, own *flag.FlagSet) (string, error) {
	r := &report{}
	in, err := readInput(args, environ, own, r)
	if err != nil {
		return "", err
	}
	var c Config
	in.apply(find("ROUTER_LISTEN"), &c, r)
	if err := r.err(); err != nil {
		return "", err
	}
	return c.Listen, nil
}

// apply sets v in c, to its default if the operator did not set it.
func (in input) apply(v variable, c *Config, r *report) (s setting, found bool) {
	s, losers, found, err := in.lookup(v)
	if err == nil && found && v.name != extraArgs && !v.credential && payload.Resembles(s.value) {
		err = errors.New("this is a credential (not shown), which does not belong here: give it as TS_AUTHKEY, or store it in Secrets Manager and name it in ROUTER_AUTH_SECRET")
	}
	if err == nil && s.value != "" {
		err = v.set(c, s.name, s.value)
	}
	if err != nil {
		r.problem(v.name, s.name, err)
	}
	for _, alias := range v.aliases {
		if strings.HasPrefix(alias, "TAILSCALE_") && strings.TrimSpace(in.env[alias]) != "" {
			r.warn(alias, "deprecated: use "+v.name)
		}
	}
	for _, loser := range losers {
		if v.differ(s, loser) {
			r.warn(loser.name, "ignored: "+s.name+" is set to a different value and takes precedence")
		}
	}
	return s, found
}

// differ reports whether two spellings of a setting have different meanings.
func (v variable) differ(a, b setting) bool {
	if a.value == b.value {
		return false
	}
	var x, y Config
	errA, errB := v.set(&x, a.name, a.value), v.set(&y, b.name, b.value)
	x.serveNames, y.serveNames = nil, nil // they change no meaning
	return v.name == extraArgs || errA != nil || errB != nil || !reflect.DeepEqual(x, y)
}
