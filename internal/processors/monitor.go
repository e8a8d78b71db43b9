package processors

import "strings"

// The runtime's monitor (sysmon) sleeps while every processor is idle. The next system
// call wakes it, and it then looks for stuck threads every 20 µs for a millisecond: a
// router that is idle between packets spends a quarter of its time on that. A runtime
// that traces its scheduler never lets the monitor sleep so deeply; it looks every 10 ms
// instead. The trace itself is a line on standard error, at the longest interval that can
// be asked for: 2^31-1 ms, or 24.8 days, since the machine started.
const (
	variable = "GODEBUG"
	setting  = "schedtrace"
	interval = "2147483647"
)

// Calm returns an environment that makes a Go program's monitor look at an even pace, and
// reports whether environ is one already: who set the interval, decided.
func Calm(environ []string) (calm []string, already bool) {
	value := ""
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, variable+"="); ok {
			value = v // the first counts
			break
		}
	}
	settings := strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
	for _, s := range settings {
		if name, _, _ := strings.Cut(s, "="); name == setting {
			return environ, true
		}
	}
	for _, e := range environ {
		if !strings.HasPrefix(e, variable+"=") {
			calm = append(calm, e)
		}
	}
	settings = append(settings, setting+"="+interval)
	return append(calm, variable+"="+strings.Join(settings, ",")), false
}
