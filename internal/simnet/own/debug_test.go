package own_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
)

type spy struct {
	simnet.Endpoint
	name string
	next time.Duration
}

func (c *spy) Deliver(now time.Duration, b []byte) {
	c.Endpoint.Deliver(now, b)
	if now >= c.next {
		c.next = now + 500*time.Millisecond
		fmt.Printf("%8.3f %s %v\n", now.Seconds(), c.name, c.Endpoint)
	}
}

func TestDebug(t *testing.T) {
	if os.Getenv("DEBUGTCP") == "" {
		t.Skip()
	}
	var loss float64
	var ms int
	fmt.Sscan(os.Getenv("DEBUGTCP"), &loss, &ms)
	wrap := func(s simnet.Subject, n string) simnet.Subject {
		inner := s.New
		s.New = func(c simnet.Config) simnet.Endpoint { return &spy{inner(c), n, 0} }
		return s
	}
	rtt := time.Duration(ms) * time.Millisecond
	took, rate := transfer(t, wrap(cubic(), "rcv"), wrap(bbr(), "snd"), 100<<20, line(rtt, loss), line(rtt, 0))
	t.Log(took, rate)
}
