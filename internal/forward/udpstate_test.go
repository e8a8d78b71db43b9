package forward

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// FuzzUDPState runs a plan of queries and answers against a DNS flow, and compares it with the
// set of unanswered IDs. Byte 0 of a step asks for an answer instead of a query if it is odd;
// byte 1 is the ID.
func FuzzUDPState(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1}, false)
	f.Add([]byte{0, 1, 0, 2, 1, 2, 1, 3, 1, 1, 0, 4, 1, 4, 1, 4}, true)
	many := []byte{}
	for i := range 2 * byte(maxPendingQueries) {
		many = append(many, 0, i)
	}
	f.Add(append(many, 1, 0, 1, 200), true)
	f.Fuzz(func(t *testing.T, plan []byte, reused bool) {
		s := udpState{dns: true, reused: reused}
		var unanswered []byte
		overflowed, queries := false, 0
		for ; len(plan) >= 2; plan = plan[2:] {
			id := plan[1]
			datagram := binary.BigEndian.AppendUint16(nil, uint16(id))
			i := slices.Index(unanswered, id)
			if plan[0]&1 == 0 {
				s.fromClient(datagram)
				queries++
				if i < 0 && !overflowed {
					unanswered = append(unanswered, id)
				}
				overflowed = len(unanswered) > maxPendingQueries
				if s.answeredAt(queries) {
					t.Fatal("answered with a pending query")
				}
				continue
			}
			pass, answered := s.fromTarget(datagram)
			if i >= 0 && !overflowed {
				unanswered = slices.Delete(unanswered, i, i+1)
			}
			if want := i >= 0 || !reused || overflowed; pass != want {
				t.Fatalf("ID %d: passed on %v, want %v; unanswered %v", id, pass, want, unanswered)
			}
			if want := i >= 0 && len(unanswered) == 0; answered != want {
				t.Fatalf("ID %d: answered %v, want %v; unanswered %v", id, answered, want, unanswered)
			}
			if s.answeredAt(queries) != (len(unanswered) == 0) || s.answeredAt(queries+1) {
				t.Fatalf("answeredAt(%d) is wrong; unanswered %v", queries, unanswered)
			}
		}
		if len(s.pending) > maxPendingQueries+1 {
			t.Fatalf("%d IDs are kept", len(s.pending))
		}
		if s.timeout() != dnsIdleTimeout || (&udpState{}).timeout() != udpIdleTimeout {
			t.Fatal("wrong timeout")
		}
	})
}

// TestOtherUDPFlowsPassEverything: without DNS there is nothing to match.
func TestOtherUDPFlowsPassEverything(t *testing.T) {
	var s udpState
	s.fromClient([]byte("1"))
	for _, datagram := range []string{"", "1", "another"} {
		if pass, answered := s.fromTarget([]byte(datagram)); !pass || answered {
			t.Errorf("%q: passed on %v, answered %v", datagram, pass, answered)
		}
	}
}

// TestIdleFlows: the newest flows stay, from the newest to the oldest; without reuse each flow ends
// when it is answered.
func TestIdleFlows(t *testing.T) {
	idle := idleFlows[int]{reuse: defaultReuse}
	for i := range 3 * maxIdleDNS {
		end := idle.add(idleFlow[int]{flow: i + 1})
		if want := max(i+1-maxIdleDNS, 0); end.flow != want {
			t.Fatalf("flow %d ended flow %d, want %d", i+1, end.flow, want)
		}
	}
	for i := range maxIdleDNS {
		if got, want := idle.newest(i).flow, 3*maxIdleDNS-i; got != want {
			t.Fatalf("entry %d is flow %d, want %d", i, got, want)
		}
	}
	var off idleFlows[int]
	if end := off.add(idleFlow[int]{flow: 7}); end.flow != 7 || off.newest(0).flow != 0 {
		t.Errorf("without reuse, flow %d ended and flow %d stayed", end.flow, off.newest(0).flow)
	}
}

// TestSocketReusePolicy: a socket is taken over only between the same two hosts, and soon after it
// was connected.
func TestSocketReusePolicy(t *testing.T) {
	port := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	old := flowKey{port("100.64.0.2:5000"), port("10.0.3.4:53")}
	connected := time.Unix(1_700_000_000, 0)
	for name, tc := range map[string]struct {
		key   flowKey
		after time.Duration
		reuse socketReuse
		want  bool
	}{
		"another port":    {flowKey{port("100.64.0.2:5001"), old.dst}, 0, defaultReuse, true},
		"just in time":    {old, defaultReuse.age - 1, defaultReuse, true},
		"too late":        {old, defaultReuse.age, defaultReuse, false},
		"another client":  {flowKey{port("100.64.0.3:5000"), old.dst}, 0, defaultReuse, false},
		"another server":  {flowKey{old.client, port("10.0.3.5:53")}, 0, defaultReuse, false},
		"reuse is off":    {old, 0, socketReuse{}, false},
		"own port only":   {old, 0, socketReuse{idle: time.Second}, false},
		"another version": {flowKey{port("[fd7a:115c:a1e0::2]:5000"), old.dst}, 0, defaultReuse, false},
	} {
		if got := tc.reuse.mayTake(connected.Add(tc.after), connected, tc.key, old); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestDNSWithoutReuse: with the policy switched off, each query has a socket of its own, and its
// flow ends with the answer.
func TestDNSWithoutReuse(t *testing.T) {
	v4, _, port := listenUDP(t)
	c := newClient(t, func(cfg *Config) {
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), nil
		}
	})
	c.f.udp().idle.reuse = socketReuse{}
	buf := make([]byte, 512)
	for range 3 {
		conn := c.dialUDP(targets(dnsPort)[0])
		conn.Write([]byte("query"))
		n, from, err := v4.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if udp := c.f.Active()[UDP]; udp != 1 {
			t.Errorf("%d flows with a pending query, want 1", udp)
		}
		v4.WriteTo(buf[:n], from)
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
		c.noFlows() // no sweep ends an answered flow earlier than its timeout of 30 s
		conn.Close()
	}
	if opened := c.f.account.opened[UDP]; counterValue(opened) != 3 {
		t.Errorf("%d flows were opened, want 3", counterValue(opened))
	}
}
