package terraform

import (
	"flag"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"subnetrouter/internal/docstest"
)

var update = flag.Bool("update", false, "write the README's tables")

// TestREADME: the tables of the README match variables.tf, outputs.tf and versions.tf.
func TestREADME(t *testing.T) {
	docstest.Generated(t, "../../deploy/terraform/README.md", "TF_DOCS", tables(t), *update,
		"go test ./test/terraform -run TestREADME -update")
}

func tables(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("## Requirements\n\n| name | version |\n| --- | --- |\n")
	versions := readAll(t, "versions.tf")
	for _, r := range []struct{ name, pattern string }{
		{"terraform", `required_version = "([^"]+)"`}, {"hashicorp/aws", `source  = "hashicorp/aws"\n +version = "([^"]+)"`},
	} {
		m := regexp.MustCompile(r.pattern).FindStringSubmatch(versions)
		if m == nil {
			t.Fatalf("versions.tf does not require %s", r.name)
		}
		fmt.Fprintf(&out, "| %s | %s |\n", r.name, strings.ReplaceAll(m[1], "<", "&lt;"))
	}
	out.WriteString("\n## Inputs\n\n| name | type | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, v := range blocks(t, "variable") {
		typ, def := argument(v.body, "type"), argument(v.body, "default")
		if def == "" {
			def = "required"
		} else {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&out, "| `%s` | `%s` | %s | %s |\n", v.name, typ, def, describe(t, v))
	}
	out.WriteString("\n## Outputs\n\n| name | meaning |\n| --- | --- |\n")
	for _, o := range blocks(t, "output") {
		fmt.Fprintf(&out, "| `%s` | %s |\n", o.name, describe(t, o))
	}
	return out.String()
}

// describe returns the description of a block, which has to be full sentences.
func describe(t *testing.T, b block) string {
	t.Helper()
	text := argument(b.body, "description")
	text = strings.ReplaceAll(strings.Trim(text, `"`), `\"`, `"`)
	if !strings.HasSuffix(text, ".") {
		t.Errorf("%s: the description %q is not a sentence", b.name, text)
	}
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(text)
}

// argument returns the text of an argument of a block, on one line.
func argument(body, name string) string {
	m := regexp.MustCompile(`(?ms)^  ` + name + ` +=(.*?)$(?:\n  (?:  .*?|[}\])]+)$)*`).FindString(body)
	_, value, _ := strings.Cut(m, "=")
	return strings.Join(strings.Fields(value), " ")
}
