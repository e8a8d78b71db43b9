package routesource

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
)

// TestKindsAreComplete checks the table: each kind has all fields from which others derive,
// and its example parses to a source of that kind.
func TestKindsAreComplete(t *testing.T) {
	for i, k := range kinds {
		if k.Syntax == "" || k.Help == "" || k.Example == "" || k.parse == nil {
			t.Errorf("kind %d (%q) lacks a field: %+v", i, k.Syntax, k)
			continue
		}
		if slices.IndexFunc(kinds, func(o *Kind) bool { return o.Syntax == k.Syntax }) != i {
			t.Errorf("%s is there twice", k.Syntax)
		}
		list, err := Parse(k.Example)
		if err != nil || len(list) != 1 || list[0].kind() != k || list[0].String() != k.Example {
			t.Errorf("the example of %s, %s, is parsed as %v, %v", k.Syntax, k.Example, list, err)
			continue
		}
		for _, n := range list[0].Needs() {
			if n.Action.Name == "" {
				t.Errorf("%s needs an action without a name", k.Syntax)
			}
		}
		for _, text := range []string{Help(), Syntaxes()} {
			if !strings.Contains(text, k.Syntax) {
				t.Errorf("%q lacks %s", text, k.Syntax)
			}
		}
	}
}

// TestEveryKindIsRegistered compares the table with the kinds that the package
// defines: one that is not in the table would never be parsed.
func TestEveryKindIsRegistered(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	defined, registered := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			switch v := spec.Values[0].(type) {
			case *ast.UnaryExpr: // var vpc = &Kind{…}
				if lit, ok := v.X.(*ast.CompositeLit); ok && name(lit.Type) == "Kind" {
					defined[spec.Names[0].Name] = true
				}
			case *ast.CompositeLit: // var kinds = []*Kind{…}
				if spec.Names[0].Name == "kinds" {
					for _, e := range v.Elts {
						registered[name(e)] = true
					}
				}
			}
			return true
		})
	}
	if len(defined) != len(kinds) {
		t.Errorf("%d kinds are defined: %v, and %d registered: %v", len(defined), defined, len(kinds), registered)
	}
	for kind := range defined {
		if !registered[kind] {
			t.Errorf("%s is not in kinds", kind)
		}
	}
}

func name(e ast.Expr) string {
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// TestNeedsAreInTheOrderOfKinds: the policy does not depend on the order in which the
// operator writes the sources.
func TestNeedsAreInTheOrderOfKinds(t *testing.T) {
	list, err := Parse("pl-0123abcd,subnets:tier=private,vpc")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range (Settings{Sources: list}).Needs() {
		got = append(got, n.Action.Name)
	}
	want := []string{
		awsapi.DescribeNetworkInterfaces.Name, awsapi.DescribeVPCs.Name,
		awsapi.DescribeNetworkInterfaces.Name, awsapi.DescribeSubnets.Name,
		awsapi.GetManagedPrefixListEntries.Name,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
