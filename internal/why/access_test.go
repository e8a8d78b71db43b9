package why

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAccess(t *testing.T) {
	const rule = `{"securityGroups":["db"]}`
	allow := Decision{Node: "laptop", Allowed: true, Rule: rule}
	refuse := Decision{Node: "phone", Reasons: []string{"the rule has other ports"}}
	for name, tt := range map[string]struct {
		access   *Access
		verdict  Verdict // "": no step
		contains []string
	}{
		"off":              {nil, "", nil},
		"no client":        {&Access{Target: "eni-1"}, Unknown, []string{"eni-1", "--from"}},
		"allowed":          {&Access{Decisions: []Decision{allow}}, Pass, []string{"laptop", rule}},
		"refused":          {&Access{Target: "eni-1", Decisions: []Decision{refuse}}, Stop, []string{"eni-1", "phone: the rule has other ports", "cap/aws", "10.0.3.4", "tcp:5432"}},
		"one of two":       {&Access{Decisions: []Decision{refuse, allow}}, Pass, []string{"from laptop", "not from phone"}},
		"only reported":    {&Access{Report: true, Decisions: []Decision{refuse}}, Pass, []string{"would refuse", "phone"}},
		"reported, passes": {&Access{Report: true, Decisions: []Decision{allow}}, Pass, []string{"laptop"}},
	} {
		f := &Facts{Question: Question{Protocol: TCP, Host: "10.0.3.4", Port: 5432, From: "someone"}, Target: netip.MustParseAddr("10.0.3.4"), Access: tt.access}
		got := access(f)
		if tt.verdict == "" {
			if got != nil {
				t.Errorf("%s: %+v, want no step", name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Verdict != tt.verdict {
			t.Errorf("%s: %+v, want %s", name, got, tt.verdict)
			continue
		}
		for _, part := range tt.contains {
			if text := got[0].Evidence + got[0].Fix; !strings.Contains(text, part) {
				t.Errorf("%s: %q does not contain %q", name, text, part)
			}
		}
	}
}
