package main

import (
	"testing"
	"time"
)

func TestParseLookups(t *testing.T) {
	l := parseLookups([]byte("[Status] Sending queries (to 10.0.3.1:53)\n" +
		"> NOERROR a.metered A 0.003000\n> T b.metered A\n> NOERROR c.metered A 0.001000\n> SERVFAIL d.metered A 0.000100\n" +
		"  Queries sent:         4\n"))
	if len(l.took) != 2 || l.failed != 2 || l.why["T"] != 1 || l.why["SERVFAIL"] != 1 || l.lost() != 50 {
		t.Errorf("parsed %+v", l)
	}
	if l.at(0) != time.Millisecond || l.at(0.99) != 3*time.Millisecond || l.none() != nil {
		t.Errorf("from %v to %v, %v", l.at(0), l.at(0.99), l.none())
	}
	if l := parseLookups([]byte("dnsperf: unable to connect\n")); l.none() == nil || l.all() != 0 {
		t.Errorf("parsed %+v without an error", l)
	}
}
