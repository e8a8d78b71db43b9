package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"subnetrouter/internal/config"
)

// completionShells are the shells for which `router completion` has a script.
var completionShells = []string{"bash", "zsh", "fish"}

func completionCommand(own *flag.FlagSet) func(context.Context, call) int {
	return func(_ context.Context, in call) int {
		if code, ok := in.parsed(own.Parse(in.args)); !ok {
			return code
		}
		switch own.Arg(0) {
		case "bash":
			bashCompletion(in.out)
		case "zsh":
			zshCompletion(in.out)
		case "fish":
			fishCompletion(in.out)
		default:
			fmt.Fprintf(in.err, "router completion: name a shell, one of %s\n", strings.Join(completionShells, ", "))
			return exitConfig
		}
		return exitOK
	}
}

// completions returns the words that may follow each command, in order.
func completions() (names []string, words map[string][]string) {
	words = map[string][]string{}
	for _, c := range commands() {
		names = append(names, c.name)
		own := flag.NewFlagSet(c.name, flag.ContinueOnError)
		own.SetOutput(io.Discard)
		c.flags(own)
		own.VisitAll(func(f *flag.Flag) { words[c.name] = append(words[c.name], "--"+f.Name) })
		words[c.name] = append(words[c.name], "--help")
		if c.settings {
			for _, s := range config.Flags() {
				words[c.name] = append(words[c.name], "--"+s+"=")
			}
		}
	}
	words["completion"] = append(slices.Clone(completionShells), words["completion"]...)
	words["help"] = slices.Clone(names)
	return append(names, "help"), words
}

// The names of commands and flags have no characters that are special to a shell.

func bashCompletion(w io.Writer) {
	names, words := completions()
	fmt.Fprintf(w, "# Load it with: source <(router completion bash)\n_router() {\n  local words\n  if [ \"$COMP_CWORD\" = 1 ]; then\n    words='%s --help --version'\n  else\n    case ${COMP_WORDS[1]} in\n", strings.Join(names, " "))
	for _, name := range names {
		fmt.Fprintf(w, "      %s) words='%s' ;;\n", name, strings.Join(words[name], " "))
	}
	fmt.Fprint(w, "    esac\n  fi\n  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n"+
		"  case ${COMPREPLY[0]} in *=) compopt -o nospace 2>/dev/null ;; esac\n}\ncomplete -F _router router\n")
}

func zshCompletion(w io.Writer) {
	names, words := completions()
	fmt.Fprintf(w, "#compdef router\n# Load it with: source <(router completion zsh)\n_router() {\n  local -a candidates\n  if (( CURRENT == 2 )); then\n    candidates=(%s --help --version)\n  else\n    case $words[2] in\n", strings.Join(names, " "))
	for _, name := range names {
		fmt.Fprintf(w, "      %s) candidates=(%s) ;;\n", name, strings.Join(words[name], " "))
	}
	fmt.Fprint(w, "    esac\n  fi\n  compadd -- ${candidates:#*=}\n  compadd -S '' -- ${(M)candidates:#*=}\n}\ncompdef _router router\n")
}

func fishCompletion(w io.Writer) {
	names, words := completions()
	fmt.Fprint(w, "# Load it with: router completion fish | source\ncomplete -c router -f\n")
	for _, name := range names {
		c, _ := find(name)
		fmt.Fprintf(w, "complete -c router -n __fish_use_subcommand -a %s -d '%s'\n", name, strings.ReplaceAll(c.summary, "'", `\'`))
		fmt.Fprintf(w, "complete -c router -n '__fish_seen_subcommand_from %s' -a '%s'\n", name, strings.Join(words[name], " "))
	}
}
