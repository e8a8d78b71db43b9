package tsapi

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfterIsBounded(t *testing.T) {
	date := func(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
	server := time.Now().Add(-time.Hour) // this machine's clock is an hour ahead
	for _, tc := range []struct {
		text string
		want time.Duration
	}{
		{"", 0}, {"30", 30 * time.Second}, {" 30 ", 30 * time.Second}, {"1.5", 1500 * time.Millisecond},
		{"315360000", maxRetryAfter}, // ten years
		{"9223372036854775807", maxRetryAfter},
		{"18446744073709551616000", maxRetryAfter},
		{"1e300", maxRetryAfter}, {"Inf", maxRetryAfter}, {"NaN", 0},
		{"-5", 0}, {"-9223372036854775808", 0}, {"soon", 0}, {"10 minutes", 0},
		{date(server.Add(time.Minute)), time.Minute},
		{date(server.Add(-time.Minute)), 0},
		{date(server.AddDate(10, 0, 0)), maxRetryAfter},
		{"Fri, 31 Dec 9999 23:59:59 GMT", maxRetryAfter},
	} {
		h := http.Header{"Retry-After": {tc.text}, "Date": {date(server)}}
		if got := retryAfter(h); got != tc.want {
			t.Errorf("Retry-After: %s: %v, want %v", tc.text, got, tc.want)
		}
	}
	far := http.Header{"Retry-After": {date(time.Now().AddDate(10, 0, 0))}}
	if got := retryAfter(far); got != maxRetryAfter {
		t.Errorf("without a Date: %v", got)
	}
}
