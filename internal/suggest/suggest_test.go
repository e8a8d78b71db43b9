package suggest

import "testing"

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"ROUTER_ROUTE": "ROUTER_ROUTES", "ROUTER_RUOTES": "ROUTER_ROUTES", "ROUTER_SOCKETS": "ROUTER_SOCKET",
		"ROUTER_ROUTES": "ROUTER_ROUTES", "ROUTER_XYZUVW": "", "": "",
	} {
		if got := Nearest(word, []string{"ROUTER_SOCKET", "ROUTER_ROUTES"}); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	if d := Distance("kitten", "sitting"); d != 3 {
		t.Errorf("distance = %d", d)
	}
}
