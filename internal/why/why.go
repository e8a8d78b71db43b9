// Package why finds the reason why a flow through the router fails. [Explain] compares facts about
// the tailnet, the router and the VPC with one flow, in the order in which they can stop it. It is
// pure: package gather and the router read the facts.
package why

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is the protocol of a flow.
type Protocol string

// The protocols. The port of an ICMP flow is 0: it is an echo request.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	ICMP Protocol = "icmp"
)

// Question asks about one flow.
type Question struct {
	Protocol Protocol `json:"protocol"`
	Host     string   `json:"host"` // a name or an address
	Port     uint16   `json:"port,omitempty"`
	From     string   `json:"from,omitempty"` // a node, its address, or a user; "" is any client
}

// String returns the flow as people write it.
func (q Question) String() string {
	if q.Protocol == ICMP {
		return "icmp " + q.Host
	}
	return string(q.Protocol) + " " + net.JoinHostPort(q.Host, strconv.Itoa(int(q.Port)))
}

// maxText bounds a host name, and the name of a client, in bytes.
const maxText = 253

// Ask parses a question: HOST:PORT, or HOST for ICMP.
func Ask(target, from string, protocol Protocol) (Question, error) {
	q := Question{Protocol: protocol, Host: target, From: from}
	if protocol != ICMP {
		host, port, err := net.SplitHostPort(target)
		if err != nil {
			return Question{}, fmt.Errorf("%q is not HOST:PORT: write it like 10.0.3.4:5432, db.internal:5432 or [fd00::4]:5432", target)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Question{}, fmt.Errorf("port %q of %q is not a number from 1 to 65535", port, target)
		}
		q.Host, q.Port = host, uint16(n)
	}
	q.Host = strings.TrimSuffix(strings.Trim(q.Host, "[]"), ".")
	if !plainText(q.Host) || strings.ContainsAny(q.Host, "/ ") {
		return Question{}, fmt.Errorf("%q is not a host: write a DNS name or an IP address", q.Host)
	}
	if from != "" && !plainText(from) {
		return Question{}, fmt.Errorf("--from %q is not the name or address of a node, or the login name of a user", from)
	}
	return q, nil
}

func plainText(s string) bool {
	return s != "" && len(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// Verdict is the result of a step.
type Verdict string

// The verdicts.
const (
	Pass    Verdict = "pass"
	Stop    Verdict = "stop"
	Unknown Verdict = "unknown"
)

// Step is one thing that can stop a flow.
type Step struct {
	Name     string  `json:"step"`
	Verdict  Verdict `json:"verdict"`
	Evidence string  `json:"evidence"`
	Fix      string  `json:"fix,omitempty"`
	// some reports that the step stops only some flows, so that another may pass.
	some bool
}

// Answer is the result of [Explain].
type Answer struct {
	Question Question   `json:"question"`
	Target   netip.Addr `json:"target,omitzero"`
	// Passes reports that no step stops the flow. Steps that are unknown do not count.
	Passes bool `json:"passes"`
	// Stop is the name of the first step that stops the flow; "" is none.
	Stop  string `json:"stop,omitempty"`
	Steps []Step `json:"steps"`
}

// First returns the first step with a verdict.
func (a Answer) First(v Verdict) (Step, bool) {
	for _, s := range a.Steps {
		if s.Verdict == v {
			return s, true
		}
	}
	return Step{}, false
}

// Missing is the reason why a fact is not known, and how to make it known. The zero value is that
// of a known fact.
type Missing struct{ Reason, Fix string }

// Fact is a value that may be missing.
type Fact[T any] struct {
	Value T
	Missing
}

// Known reports whether the value is known.
func (f Fact[T]) Known() bool { return f.Missing == Missing{} }

// Know returns a known fact.
func Know[T any](v T) Fact[T] { return Fact[T]{Value: v} }

// Lack returns a missing fact.
func Lack[T any](reason, fix string) Fact[T] { return Fact[T]{Missing: Missing{reason, fix}} }

// Facts hold all that is known about a flow.
type Facts struct {
	Question Question
	Name     Name
	// Address is the address to which clients send, and Target the address in the VPC. They differ
	// with 4via6.
	Address, Target netip.Addr

	Member  Member
	Routes  Fact[[]Route]
	Others  []OtherRoute // routes of other nodes
	Clients Fact[[]Client]
	Filter  Fact[[]Entry]
	Denied  string // the reason why the deny list has the target; "" if it does not
	Limits  []Limit
	Access  *Access  // nil unless ROUTER_ACCESS is on
	Network *Network // nil outside AWS
	Probe   Probe
}

// steps are the steps in the order in which they can stop a flow. A function returns no step if it
// does not apply.
var steps = []func(*Facts) []Step{
	name, member, route, advertised, approved, primary, packetFilter, denyList, limits, access,
	network, probe,
}

// Explain answers the question of the facts.
func Explain(f Facts) Answer {
	a := Answer{Question: f.Question, Target: f.Target, Steps: []Step{}}
	for _, step := range steps {
		a.Steps = append(a.Steps, step(&f)...)
		if !f.Target.IsValid() { // nothing else can be known
			break
		}
	}
	if f.Probe.Reached() {
		contradict(a.Steps, f.Probe)
	}
	first, stopped := a.First(Stop)
	a.Passes, a.Stop = !stopped, first.Name
	return a
}

func pass(name, format string, args ...any) Step {
	return Step{Name: name, Verdict: Pass, Evidence: fmt.Sprintf(format, args...)}
}

func stop(name, fix, format string, args ...any) Step {
	return Step{Name: name, Verdict: Stop, Evidence: fmt.Sprintf(format, args...), Fix: fix}
}

func unknown(name string, m Missing) Step {
	return Step{Name: name, Verdict: Unknown, Evidence: m.Reason, Fix: m.Fix}
}

// shorten joins a list for people.
func shorten(list []string) string {
	const most = 8
	if more := len(list) - most; more > 0 {
		list = append(list[:most:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}
