// Command typecheck type-checks packages for operating systems that this machine does not
// run:
//
//	typecheck -os darwin,freebsd ./cmd/router
//
// Packages of this module that these import are checked too. It reads everything from source and skips the bodies of other modules' functions, so it
// compiles nothing: the whole router takes seconds, where `go vet` would first compile its
// module graph for each system.
package main

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	systems := flag.String("os", "darwin,freebsd", "comma `list` of GOOS values")
	flag.Parse()
	for system := range strings.SplitSeq(*systems, ",") {
		if err := check(system, flag.Args()); err != nil {
			fmt.Fprintf(os.Stderr, "typecheck: %s: %v\n", system, err)
			os.Exit(1)
		}
	}
}

// check loads the packages that match patterns for one system, and returns the errors of
// this module's packages.
func check(system string, patterns []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	own := dir + string(filepath.Separator)
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
			packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesSizes | packages.NeedModule,
		Env: append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0"),
		ParseFile: func(set *token.FileSet, name string, src []byte) (*ast.File, error) {
			file, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
			if file != nil && !strings.HasPrefix(name, own) {
				dropBodies(file)
			}
			return file, err
		},
	}, patterns...)
	if err != nil {
		return err
	}
	if len(loaded) == 0 {
		return errors.New("no package matches")
	}
	var found []error
	packages.Visit(loaded, nil, func(p *packages.Package) {
		if p.Module == nil || !p.Module.Main { // nil is the standard library
			return
		}
		for _, e := range p.Errors {
			found = append(found, e)
		}
	})
	return errors.Join(found...)
}

// dropBodies leaves a file's declarations only. The checker then finds imports that nothing
// uses, which are errors of packages that check does not ask for.
func dropBodies(file *ast.File) {
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			f.Body = nil
		}
	}
}
