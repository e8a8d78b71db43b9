package tailnet

import (
	"bytes"
	"net/netip"
	"testing"

	"subnetrouter/internal/netfilter"
	"subnetrouter/internal/netnstest"
)

// TestRulesEnd: no rule is left after the end, whatever still sets some. Without a use of them, those of another router of
// the host stay.
func TestRulesEnd(t *testing.T) {
	netnstest.Require(t)
	host := netnstest.New(t).Host("host")
	there := func() bool {
		t.Helper()
		out, err := host.Command(t.Context(), "nft", "list", "tables").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return bytes.Contains(out, []byte("subnetrouter"))
	}
	f := netfilter.Forward{Device: tunName, Target: netip.MustParseAddr("100.64.0.1"), From: netip.MustParseAddr("100.64.0.5"), FirstPort: 50000, LastPort: 50999}
	host.Do(func() error {
		var one, other rules
		if err := one.open(); err != nil {
			t.Error(err)
		}
		if err := one.set(f); err != nil || !there() {
			t.Errorf("set: %v; a table: %t", err, there())
		}
		if err := other.end(); err != nil || !there() {
			t.Errorf("the end of rules that were not used: %v; a table: %t", err, there())
		}
		if err := one.end(); err != nil || there() {
			t.Errorf("the end: %v; a table: %t", err, there())
		}
		if err := one.set(f); err == nil || there() {
			t.Errorf("set after the end: %v; a table: %t", err, there())
		}
		return nil
	})
}
