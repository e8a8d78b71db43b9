package problem_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/problem"
)

func example() *problem.Problem {
	return &problem.Problem{
		Code: problem.CredentialThrottled, Message: "calling X: HTTP 429", Fix: "call X less often",
		RetryAfter: 7 * time.Second, Err: io.EOF,
	}
}

func TestError(t *testing.T) {
	p := example()
	if got, want := p.Error(), "calling X: HTTP 429; call X less often"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.Fix = ""
	if got, want := p.Error(), "calling X: HTTP 429"; got != want {
		t.Errorf("without a fix: got %q, want %q", got, want)
	}
	p = problem.New("do Y", "reading %s: %w", "X", io.EOF)
	if got, want := p.Error(), "reading X: EOF; do Y"; got != want || !errors.Is(p, io.EOF) {
		t.Errorf("New: got %q, want %q; %v", got, want, p.Err)
	}
}

// TestWrapf: a Problem with context has the same code, fix and wait, and the text that
// fmt.Errorf would give.
func TestWrapf(t *testing.T) {
	err := problem.Wrapf(problem.Wrapf(example(), "using %q", "secret"), "joining")
	want := problem.Problem{
		Code: problem.CredentialThrottled, Message: `joining: using "secret": calling X: HTTP 429`, Fix: "call X less often",
		RetryAfter: 7 * time.Second,
	}
	got := *problem.Of(err)
	got.Err = nil
	if got != want || !errors.Is(err, io.EOF) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if text := fmt.Errorf("joining: using %q: %w", "secret", example()).Error(); err.Error() != text {
		t.Errorf("got %q, want %q", err, text)
	}
	plain := problem.Wrapf(io.EOF, "reading")
	if p := problem.Of(plain); p.Error() != "reading: EOF" || p.Code != "" || p.Fix != "" || !errors.Is(plain, io.EOF) {
		t.Errorf("a plain error: %+v", p)
	}
	if err := problem.Wrapf(nil, "reading"); err != nil {
		t.Errorf("nil: %v", err)
	}
}

// TestOf: no text is lost or doubled where an error that is not a Problem wraps one.
func TestOf(t *testing.T) {
	if p := problem.Of(nil); p != nil {
		t.Errorf("nil: %v", p)
	}
	p := example()
	if problem.Of(p) != p {
		t.Error("a Problem is not itself")
	}
	for _, err := range []error{fmt.Errorf("joining: %w", p), errors.Join(p, io.ErrClosedPipe)} {
		of := problem.Of(err)
		if of.Error() != err.Error() || of.Fix != "" || of.Code != p.Code || of.RetryAfter != p.RetryAfter || !errors.Is(of, io.EOF) {
			t.Errorf("%v: %+v", err, of)
		}
	}
}

func TestCodeOf(t *testing.T) {
	uncoded := &problem.Problem{Message: "outer", Err: fmt.Errorf("inner: %w", example())}
	for _, tc := range []struct {
		err  error
		want problem.Code
	}{
		{nil, problem.JoinFailed},
		{io.EOF, problem.JoinFailed},
		{example(), problem.CredentialThrottled},
		{fmt.Errorf("joining: %w", example()), problem.CredentialThrottled},
		{uncoded, problem.CredentialThrottled},
		{problem.New("", "none"), problem.JoinFailed},
	} {
		if got := problem.CodeOf(tc.err, problem.JoinFailed); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.err, got, tc.want)
		}
	}
}

// TestCodesAreComplete: each constant of type Code has one entry, with a use and a meaning.
func TestCodesAreComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var constants []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			constants = append(constants, text)
		}
		return true
	})
	var entries []string
	for _, e := range problem.Codes {
		if e.Use == 0 || e.Meaning == "" {
			t.Errorf("%s: use %b, meaning %q", e.Code, e.Use, e.Meaning)
		}
		entries = append(entries, string(e.Code))
	}
	slices.Sort(constants)
	slices.Sort(entries)
	if !slices.Equal(constants, entries) {
		t.Errorf("constants %q\nentries   %q", constants, entries)
	}
}

// TestCodesAreDocumented compares the tables of docs/operations.md with the codes: the same
// ones in the same order, with the same meaning, and with advice.
func TestCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Not ready: the codes of `/readyz`\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got, want []string
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) < 3 || !strings.HasPrefix(cells[0], "| `") {
			continue
		}
		if strings.TrimSuffix(cells[2], " |") == "" {
			t.Errorf("%s: no advice", cells[0])
		}
		got = append(got, strings.TrimPrefix(cells[0], "| ")+": "+cells[1])
	}
	for _, e := range problem.Codes {
		want = append(want, "`"+string(e.Code)+"`: "+e.Meaning)
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/operations.md has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTitles: each code has a headline of its own, in words and not in the names of codes.
func TestTitles(t *testing.T) {
	seen := map[string]problem.Code{}
	for _, e := range problem.Codes {
		if e.Title == "" || strings.ContainsAny(e.Title, "_`.") || len(e.Title) > 48 {
			t.Errorf("%s has the title %q", e.Code, e.Title)
		}
		if other, twice := seen[e.Title]; twice {
			t.Errorf("%s and %s have the same title %q", other, e.Code, e.Title)
		}
		seen[e.Title] = e.Code
		if e.Code.Title() != e.Title {
			t.Errorf("%s.Title() is %q", e.Code, e.Code.Title())
		}
	}
	if got := problem.Code("unknown").Title(); got != "" {
		t.Errorf("an unknown code has the title %q", got)
	}
}
