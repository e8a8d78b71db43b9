// Command prose counts two habits that make English hard to read: clauses with an
// interrogative in place of a noun, and words of a dialect that Go, Tailscale and AWS
// engineers do not use. It reads the files that git lists and prints one line per folder:
//
//	prose [flags] [folder ...]
//
// Go files count by the words of their comments, Markdown files by the text outside
// of code blocks. It exits with 1 if a total exceeds its limit per 1,000 words, and
// with 2 if it cannot count.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The limits of the whole tree, per 1,000 words, for each kind of file.
const (
	maxWhat    = 0.5
	maxDialect = 0.5
)

var (
	word    = regexp.MustCompile(`[\pL']+`)
	what    = regexp.MustCompile(`(?i)\bwhat\b`)
	dialect = regexp.MustCompile(`(?i)\b(` + strings.Join([]string{
		"nobody", "anew", "mend(s|ed)?", "(came|comes?) about", "whoever", "by itself",
		"tells?", "told", "says?", "said", "hears?", "heard", "beside", "neighbours?",
		"goes on", "go on", "trying on", "as far as", "vouch(es)?",
	}, "|") + `)\b`)
	directive = regexp.MustCompile(`^(go:\w|line |export |nolint)`)
)

func main() {
	ok, err := run(os.Stdout, ".", os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// run counts the files of the checkout at root, and reports whether each total is
// within its limits.
func run(out io.Writer, root string, args []string) (ok bool, err error) {
	flags := flag.NewFlagSet("prose", flag.ContinueOnError)
	list := flags.Bool("list", false, "print the lines with a hit")
	limit := count{}
	flags.Float64Var(&limit.what, "max-what", maxWhat, `largest total of "what" per 1,000 words`)
	flags.Float64Var(&limit.dialect, "max-dialect", maxDialect, "largest total of dialect words per 1,000 words")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	ok = true
	for _, kind := range kinds {
		files, err := listed(root, kind.pattern, flags.Args())
		if err != nil {
			return false, err
		}
		total, err := kind.count(out, root, files, *list)
		if err != nil {
			return false, err
		}
		if a, b := total.per1000(); a > limit.what || b > limit.dialect {
			fmt.Fprintf(out, "%s: more than %g \"what\" or %g dialect words per 1,000; prose -list shows them\n",
				kind.name, limit.what, limit.dialect)
			ok = false
		}
	}
	return ok, nil
}

// kind is a kind of file. prose returns its lines with everything except prose blanked.
type kind struct {
	name, pattern string
	prose         func(text []byte) []string
}

var kinds = []kind{
	{"comments of .go files", "*.go", comments},
	{"text of .md files", "*.md", outsideCode},
}

// count prints a table of the files' folders and returns the total.
func (k kind) count(out io.Writer, root string, files []string, list bool) (total count, err error) {
	folders := map[string]count{}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(root, file))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not yet in the index
		}
		if err != nil {
			return total, err
		}
		for i, line := range k.prose(text) {
			c := countLine(line)
			if list && c.what+c.dialect > 0 {
				fmt.Fprintf(out, "%s:%d: %s\n", file, i+1, strings.TrimSpace(line))
			}
			folder := path.Dir(file)
			folders[folder] = folders[folder].plus(c)
			total = total.plus(c)
		}
	}
	fmt.Fprintf(out, "%-34s %8s %6s %8s %6s %8s\n", k.name, "words", "what", "dialect", "/1,000", "/1,000")
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		folders[name].print(out, name)
	}
	total.print(out, "total")
	fmt.Fprintln(out)
	return total, nil
}

// count holds the counts of a line, a folder or a tree.
type count struct {
	words, what, dialect float64
}

func countLine(line string) count {
	return count{
		words:   float64(len(word.FindAllString(line, -1))),
		what:    float64(len(what.FindAllString(line, -1))),
		dialect: float64(len(dialect.FindAllString(line, -1))),
	}
}

func (c count) plus(d count) count {
	return count{c.words + d.words, c.what + d.what, c.dialect + d.dialect}
}

func (c count) per1000() (what, dialect float64) {
	words := max(c.words, 1)
	return 1000 * c.what / words, 1000 * c.dialect / words
}

func (c count) print(out io.Writer, name string) {
	a, b := c.per1000()
	fmt.Fprintf(out, "%-34s %8.0f %6.0f %8.0f %6.1f %8.1f\n", name, c.words, c.what, c.dialect, a, b)
}

// listed returns the files that git tracks or would add and whose name matches the pattern,
// in the folders or, without folders, in the whole checkout.
func listed(root, pattern string, folders []string) ([]string, error) {
	git := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	git.Dir = root
	git.Stderr = os.Stderr
	text, err := git.Output()
	if err != nil {
		return nil, fmt.Errorf("listing files with git: %w", err)
	}
	var files []string
	for file := range strings.SplitSeq(string(text), "\x00") {
		if ok, _ := path.Match(pattern, path.Base(file)); ok && within(file, folders) {
			files = append(files, file)
		}
	}
	return files, nil
}

func within(file string, folders []string) bool {
	return len(folders) == 0 || slices.ContainsFunc(folders, func(folder string) bool {
		folder = path.Clean(folder)
		return folder == "." || file == folder || strings.HasPrefix(file, folder+"/")
	})
}

// comments returns the comments of Go source, without directives such as //go:build.
func comments(text []byte) []string {
	lines := make([]string, bytes.Count(text, []byte("\n"))+1)
	fset := token.NewFileSet()
	file := fset.AddFile("", fset.Base(), len(text))
	var s scanner.Scanner
	s.Init(file, text, func(token.Position, string) {}, scanner.ScanComments)
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			return lines
		}
		if tok != token.COMMENT {
			continue
		}
		body := literal[2:]
		if literal[1] == '*' {
			body = strings.TrimSuffix(body, "*/")
		} else if directive.MatchString(body) {
			continue
		}
		first := file.Line(pos) - 1
		for i, line := range strings.Split(body, "\n") {
			lines[first+i] += " " + line
		}
	}
}

// outsideCode returns the text of a Markdown document without its fenced code blocks.
func outsideCode(text []byte) []string {
	lines := strings.Split(string(text), "\n")
	fence := ""
	for i, line := range lines {
		trimmed := strings.TrimSpace(line)
		switch {
		case fence == "" && (strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~")):
			fence = trimmed[:3]
			lines[i] = ""
		case fence != "":
			if strings.HasPrefix(trimmed, fence) {
				fence = ""
			}
			lines[i] = ""
		}
	}
	return lines
}
