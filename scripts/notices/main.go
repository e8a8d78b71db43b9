// Command notices writes the licence texts of all code that the binary links: Go's
// standard library, and each module with a linked package.
//
//	notices [-check] [-tags a,b] package file
//
// It follows the build, not go.mod: packages that build tags exclude are not included. It
// writes texts that several modules share once. With -check it writes nothing, and fails
// if the file differs from the text that it would write.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	tags := flag.String("tags", "", "build `tags` of the binary")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *tags, flag.Arg(1), *check); err != nil {
		fmt.Fprintln(os.Stderr, "notices:", err)
		os.Exit(1)
	}
}

func run(pkg, tags, file string, check bool) error {
	modules, err := linked(pkg, tags)
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := m.read(); err != nil {
			return err
		}
	}
	text := render(modules)
	if !check {
		return os.WriteFile(file, text, 0o644)
	}
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) {
		return fmt.Errorf("%s does not match the modules that %s links: run `make notices`", file, pkg)
	}
	return nil
}

// module is a module with packages that the binary links.
type module struct {
	name    string // as in `go version -m`
	dir     string // its root
	folders map[string]bool
	texts   []string
}

// The platforms of the image. They may link different packages.
var platforms = []string{"linux/amd64", "linux/arm64"}

// linked returns the linked modules, sorted by name, the standard library first.
func linked(pkg, tags string) ([]*module, error) {
	byName := map[string]*module{}
	for _, platform := range platforms {
		if err := link(byName, pkg, tags, platform); err != nil {
			return nil, err
		}
	}
	var list []*module
	for _, m := range byName {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *module) int { return cmp.Compare(a.name, b.name) })
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("locating Go: %w", err)
	}
	root := strings.TrimSpace(string(goroot))
	std := &module{name: "Go standard library", dir: root, folders: map[string]bool{root: true}}
	return append([]*module{std}, list...), nil
}

func link(into map[string]*module, pkg, tags, platform string) error {
	goos, goarch, _ := strings.Cut(platform, "/")
	list := exec.Command("go", "list", "-deps", "-json=Dir,Module", "-tags", tags, pkg)
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("listing the packages that %s links: %w", pkg, err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p struct {
			Dir    string
			Module *struct {
				Path, Version, Dir string
				Main               bool
				Replace            *struct{ Path, Version string } // what go.mod has in place of it
			}
		}
		if err := dec.Decode(&p); err != nil {
			return fmt.Errorf("reading the packages that %s links: %w", pkg, err)
		}
		if p.Module == nil || p.Module.Main {
			continue
		}
		m := into[p.Module.Path]
		if m == nil {
			name := p.Module.Path + " " + p.Module.Version
			if r := p.Module.Replace; r != nil {
				name = r.Path + " " + r.Version
			}
			m = &module{name: name, dir: p.Module.Dir, folders: map[string]bool{}}
			into[p.Module.Path] = m
		}
		m.folders[p.Dir] = true
	}
	return nil
}

var legal = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)([-.].*)?$`)

// read reads the licence files in the folders of the linked packages, up to the module's
// root: a module may contain code of others with its own licence.
func (m *module) read() error {
	folders := map[string]bool{}
	for dir := range m.folders {
		for ; ; dir = filepath.Dir(dir) {
			folders[dir] = true
			if dir == m.dir || len(dir) <= len(m.dir) {
				break
			}
		}
	}
	var files []string
	for dir := range folders {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("reading licences of %s: %w", m.name, err)
		}
		for _, e := range entries {
			if isLegal(e) {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	slices.Sort(files)
	if len(files) == 0 {
		return fmt.Errorf("%s has no licence file", m.name)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("reading licences of %s: %w", m.name, err)
		}
		if t := tidy(text); !slices.Contains(m.texts, t) {
			m.texts = append(m.texts, t)
		}
	}
	return nil
}

func isLegal(e fs.DirEntry) bool {
	return e.Type().IsRegular() && legal.MatchString(e.Name()) && path.Ext(e.Name()) != ".go"
}

// tidy removes blanks at the ends of lines, so that texts that differ only in them are equal.
func tidy(text []byte) string {
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " \t\f")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

const rule = "================================================================================"

// render writes each text below the names of all modules that contain it.
func render(modules []*module) []byte {
	var order []string
	names := map[string][]string{}
	for _, m := range modules {
		for _, t := range m.texts {
			if names[t] == nil {
				order = append(order, t)
			}
			names[t] = append(names[t], m.name)
		}
	}
	var b bytes.Buffer
	b.WriteString("The router links the modules below; each text follows the names of those that\ncarry it. Generated by `make notices`.\n")
	for _, t := range order {
		fmt.Fprintf(&b, "\n%s\n%s\n%s\n\n%s\n", rule, strings.Join(names[t], "\n"), rule, t)
	}
	return b.Bytes()
}
