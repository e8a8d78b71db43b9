package target

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m meter
		one, other := netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("10.0.1.6")
		admitted := 0
		for range 2 * awsLimit {
			if m.admits(one) {
				admitted++
			}
		}
		if admitted != awsLimit || !m.admits(other) {
			t.Errorf("%d of one address admitted, another: %v", admitted, m.admits(other))
		}
		time.Sleep(time.Second)
		if !m.admits(one) {
			t.Error("the next second admits none")
		}
	})
}
