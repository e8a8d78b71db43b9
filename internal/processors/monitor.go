package processors

import "strings"

// The runtime's monitor (sysmon) sleeps while every processor is idle. The next system
// call wakes it, and it then looks for stuck threads every 20 µs for a millisecond: a
// router that is idle between packets spends a quarter of its time on that. A runtime
// that traces its scheduler never lets the monitor sleep so deeply; it looks every 10 ms
// instead. The trace itself is a line on standard error, at the longest interval that can
// be asked for: 2^31-1 ms, or 24.8 days, since the machine started.
const (
	setting  = "schedtrace"
	interval = "2147483647"
)

// Calm returns the value of GODEBUG with which a Go program's monitor looks at an even
// pace: the one given, if it sets the interval already.
func Calm(godebug string) string {
	settings := strings.FieldsFunc(godebug, func(r rune) bool { return r == ',' })
	for _, s := range settings {
		if name, _, _ := strings.Cut(s, "="); name == setting {
			return godebug
		}
	}
	return strings.Join(append(settings, setting+"="+interval), ",")
}
