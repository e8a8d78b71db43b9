package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// wallClock lists the files of the product that may strip the monotonic reading of a
// [time.Time], or compare a time from another source with now, and why. A step of the
// clock changes such a difference. Other files measure by Sub, Since and timers.
var wallClock = map[string]string{
	"cmd/router/statustable.go":           "the end of a lease, for people",
	"internal/router/credential.go":       "the time at which a credential was stored, in the log",
	"internal/router/emf.go":              "the time of a line, under which CloudWatch files its metrics",
	"internal/router/membership.go":       "the end of the node key, in a message",
	"internal/router/metrics.go":          "times as metrics have them",
	"internal/router/warnings.go":         "ends of the node key and of stored credentials: dates that others set",
	"internal/awsapi/error.go":            "the time of this machine, in a message",
	"internal/doctor/aws.go":              "the end of credentials, in a message",
	"internal/doctor/credential.go":       "the end of a stored credential: a date that a person set",
	"internal/forward/own.go":             "the deadline of a net.PacketConn, which its caller sets by its own clock",
	"internal/forward/ownconn.go":         "the deadline of a net.Conn, which its caller sets by its own clock",
	"internal/forward/owndatagrams.go":    "the deadline of a net.Conn, which its caller sets by its own clock",
	"internal/slot/clock_linux.go":        "the end of a lease, which other processes compare with their own clocks",
	"internal/slot/clock_other.go":        "as clock_linux.go",
	"internal/slot/lease.go":              "the end of the lease, in a message",
	"internal/slot/pool.go":               "the end of the lease, as the table has it",
	"internal/certificate/certificate.go": "the end of the certificate, as the authority has it",
	"internal/router/servetls.go":         "the same",
	"internal/slot/slot.go":               "the end of a lease that another process has, by the clocks of both",
	"internal/tailnet/joinerror.go":       "the time of this machine, in a message",
	"internal/tsapi/error.go":             "the time of this machine, in a message",
	"internal/tsapi/tsapi.go":             "the end of a token, which has a monotonic reading",
}

// TestNoWallClock: timers and ages are monotonic.
func TestNoWallClock(t *testing.T) {
	used := map[string]bool{}
	for _, top := range []string{"cmd/router", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && (strings.HasSuffix(entry.Name(), "test") || entry.Name() == "testdata") {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || !losesMonotonic(call) {
					return true
				}
				used[filepath.ToSlash(name)] = true
				if wallClock[filepath.ToSlash(name)] == "" {
					t.Errorf("%v reads the wall clock: measure by Sub, Since or a timer, or add it to wallClock with the reason", files.Position(call.Pos()))
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range wallClock {
		if !used[name] {
			t.Errorf("%s no longer reads the wall clock: remove it from wallClock", name)
		}
	}
}

func losesMonotonic(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch sel.Sel.Name {
	case "UTC", "Local", "Unix", "UnixNano", "UnixMilli", "UnixMicro", "Truncate":
		return true
	case "Until":
		pkg, ok := sel.X.(*ast.Ident)
		return ok && pkg.Name == "time"
	case "Round": // of a time, to strip the reading; of a duration, to show it
		zero, ok := call.Args[0].(*ast.BasicLit)
		return ok && zero.Value == "0"
	}
	return false
}
