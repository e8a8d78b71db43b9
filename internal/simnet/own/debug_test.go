package own_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
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
	if os.Getenv("SPY") == "" {
		for _, snd := range []simnet.Subject{bbr(), cubic()} {
			for _, row := range []string{"clean", "late", "late20", "jitter", "acklate"} {
				d, u := line(rtt, loss), line(rtt, 0)
				switch row {
				case "late":
					d.Reorder, d.ReorderDelay = 0.01, 5*time.Millisecond
				case "late20":
					d.Reorder, d.ReorderDelay = 0.01, 20*time.Millisecond
				case "jitter":
					d.Jitter = 5 * time.Millisecond
				case "acklate":
					u.Reorder, u.ReorderDelay = 0.3, 5*time.Millisecond
				}
				for _, rcv := range []simnet.Subject{cubic(), gvisor.Subject(gvisor.Options{})} {
					took, rate := transfer(t, rcv, snd, 100<<20, d, u)
					fmt.Println(snd.Name, rcv.Name, row, took, rate)
				}
			}
		}
		return
	}
	d := line(rtt, loss)
	d.Reorder, d.ReorderDelay = 0.01, 20*time.Millisecond
	took, rate := transfer(t, wrap(cubic(), "rcv"), wrap(cubic(), "snd"), 100<<20, d, line(rtt, 0))
	t.Log(took, rate)
}
