package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"subnetrouter/internal/suggest"
)

// input holds the operator's arguments and environment, not yet parsed.
type input struct {
	flags map[string]string // by name, without dashes
	env   map[string]string
	extra map[string]setting // by variable, from TS_EXTRA_ARGS
}

// setting is a value and the name that the operator gave it under.
type setting struct{ name, value string }

// readInput parses arguments and environment. Its only error is [flag.ErrHelp];
// problems go to r.
func readInput(args, environ []string, own *flag.FlagSet, r *report) (input, error) {
	in := input{flags: map[string]string{}, env: map[string]string{}}
	for _, e := range environ {
		name, value, ok := strings.Cut(e, "=")
		if _, again := in.env[name]; ok && !again { // the first one is used, as by os.Getenv
			in.env[name] = value
		}
	}
	return in, in.readFlags(args, own, r)
}

func (in input) readFlags(args []string, own *flag.FlagSet, r *report) error {
	fs := flag.NewFlagSet("router", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for _, name := range flagNames() {
		fs.Func(name, "", func(value string) error {
			in.flags[name] = value
			return nil
		})
	}
	names := flagNames()
	if own != nil {
		own.VisitAll(func(f *flag.Flag) {
			fs.Var(f.Value, f.Name, f.Usage)
			names = append(names, f.Name)
		})
	}
	for len(args) > 0 {
		err := fs.Parse(args)
		rest := fs.Args()
		switch {
		case errors.Is(err, flag.ErrHelp):
			return err
		case err != nil && strings.HasPrefix(err.Error(), "bad flag syntax"), err == nil && len(rest) > 0:
			r.problemf("", "arguments", quote(rest[0])+" is not a flag: write settings as --name value")
			rest = rest[1:]
		case err != nil:
			// Parse stops after the flag that it refuses. Continue with the rest, to
			// report all problems at once.
			culprit := args[len(args)-len(rest)-1]
			name, _, hasValue := strings.Cut(strings.TrimLeft(culprit, "-"), "=")
			r.problemf("", "--"+name, flagProblem(name, names))
			if !hasValue && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
				rest = rest[1:]
			}
		}
		args = rest
	}
	return nil
}

func flagProblem(name string, names []string) string {
	switch name {
	case "auth-key", "authkey", "ts-authkey", "ts-auth-key":
		return "no such flag, since arguments are visible to every process: give the key as TS_AUTHKEY, or a secret's name as --auth-secret"
	}
	if slices.Contains(names, name) {
		return "the value is missing: write --" + name + " VALUE"
	}
	if near := suggest.Nearest(name, names); near != "" {
		return "no such flag; did you mean --" + near + "?"
	}
	return "no such flag; --help lists all"
}

// removed has the variables of former versions, without our prefix, and the advice about each.
var removed = map[string]string{
	"TCP_STACK": "was removed in 2026-11 together with gVisor's TCP: remove it",
}

// unknown reports unknown names with our prefix: most likely typing errors, which would
// otherwise leave a setting at its default.
func (in input) unknown(r *report) {
	names := routerNames()
	for _, name := range slices.Sorted(maps.Keys(in.env)) {
		word, ok := strings.CutPrefix(name, prefix)
		if !ok || slices.Contains(names, word) {
			continue
		}
		text := "no such variable; --help lists all"
		if advice := removed[word]; advice != "" {
			text = advice
		} else if near := suggest.Nearest(word, names); near != "" {
			text = "no such variable; did you mean " + prefix + near + "?"
		}
		r.problemf("", name, text)
	}
}

// lookup returns the setting of v with the highest precedence: the flag, its own name, other
// programs' names, TS_EXTRA_ARGS. An empty value is skipped, or an error if v.example is
// set. A value "file:PATH" is read from that file. losers are the other spellings that have
// a value.
func (in input) lookup(v variable) (s setting, losers []setting, found bool, err error) {
	candidates := []setting{}
	if value, ok := in.flags[v.flag]; ok {
		candidates = append(candidates, setting{"--" + v.flag, value})
	}
	if value, ok := in.env[v.name]; ok {
		candidates = append(candidates, setting{v.name, value})
	}
	for _, s := range candidates {
		if strings.TrimSpace(s.value) == "" && v.example != "" {
			return s, nil, true, fmt.Errorf("the value is empty: write %s, or remove it for the default, %s", v.example, v.fallback)
		}
		if strings.TrimSpace(s.value) != "" {
			break
		}
	}
	for _, alias := range v.aliases {
		candidates = append(candidates, setting{alias, in.env[alias]})
	}
	candidates = append(candidates, in.extra[v.name])
	for _, candidate := range candidates {
		candidate.value = strings.TrimSpace(candidate.value)
		if candidate.value == "" {
			continue
		}
		var readErr error
		if path, ok := strings.CutPrefix(candidate.value, "file:"); ok {
			candidate.value, readErr = readFile(path)
		}
		if found {
			losers = append(losers, candidate)
			continue
		}
		s, found, err = candidate, true, readErr
	}
	if !found {
		s = setting{v.name, v.fallback}
	}
	return s, losers, found, err
}

// maxFileSize is more than any setting needs; a device or a wrong file exceeds it.
const maxFileSize = 64 << 10

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fileError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return "", fileError(path, err)
	}
	value := strings.TrimSpace(string(data))
	if len(data) > maxFileSize {
		return "", fmt.Errorf("the file %s is longer than %d bytes: name one that contains only the value", quote(path), maxFileSize)
	}
	if value == "" {
		return "", fmt.Errorf("the file %s is empty: write the value into it", quote(path))
	}
	return value, nil
}

func fileError(path string, err error) error {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		err = e.Err // without the path and the system call
	}
	return fmt.Errorf("reading the file %s: %w", quote(path), err)
}
