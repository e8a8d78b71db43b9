package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/netfilter"
)

// allPortsEvery is the time between two look-ups of the target of [Node.ForwardAll].
const allPortsEvery = 5 * time.Second

// ForwardAll forwards, in kernel mode, the TCP connections and UDP flows that arrive at this host to the same port of a
// target in the tailnet, from this node's addresses. Those from the tailnet are not forwarded, nor those of the ports
// that except returns. The target is a host as for [Node.Dial]; IPv4 goes to its IPv4 address, and IPv6 to its IPv6
// address, if it has one.
//
// ForwardAll returns when ctx ends, and with an error if the kernel has no nftables. It forwards no new flow after
// draining has been closed.
func (n *Node) ForwardAll(ctx context.Context, draining <-chan struct{}, host string, except func() []uint16) error {
	if err := n.rules.open(); err != nil {
		return fmt.Errorf("forwarding all ports to %s: %w; the kernel must have nftables: use an instance that has it, or name each port in ROUTER_EGRESS", host, err)
	}
	defer n.EndForwardAll()
	f := newAllPorts(n, host)
	joined, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-draining:
			cancel()
		case <-joined.Done():
		}
	}()
	if !n.state.await(joined, func(s *Status) bool { return len(s.IPs) > 0 }) {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(allPortsEvery)
	defer tick.Stop()
	for {
		f.follow(ctx, except())
		select {
		case <-tick.C:
		case <-draining:
			f.close()
			<-ctx.Done()
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// AllPorts is the state of [Node.ForwardAll].
type AllPorts struct {
	Targets []netip.Addr // that ports are forwarded to: of IPv4, IPv6, both or none
	Once    bool         // ports were forwarded at some time
	Err     error        // why a family is not forwarded, or its target could not be looked up again; nil if there is no failure
}

// ErrRulesRefused is within [AllPorts.Err] if the target of a family was found, and the kernel refused the rules that forward to it.
var ErrRulesRefused = errors.New("the kernel refused the rules of nftables")

// AllPorts returns the state of [Node.ForwardAll]. It is empty before the first look-up has ended.
func (n *Node) AllPorts() AllPorts {
	if s := n.allPorts.Load(); s != nil {
		return *s
	}
	return AllPorts{}
}

// EndForwardAll removes the rules of [Node.ForwardAll], which sets none afterwards: for an exit that does not wait for its
// return. Without a ForwardAll it does nothing.
func (n *Node) EndForwardAll() {
	if err := n.rules.end(); err != nil {
		n.log.Warn("removing the rules that forward all ports failed", "err", err, "fix", "none is needed if the container's network ends with it; else run nft delete table ip subnetrouter, and ip6")
	}
}

// rules are those of [Node.ForwardAll] in the kernel. They outlive the process unless end is called.
type rules struct {
	mu          sync.Mutex // covers the fields below, and changes of the rules
	used, ended bool
}

func (r *rules) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = true
	return netfilter.Clear()
}

// set replaces the rules of a family. Its error is context.Canceled after end.
func (r *rules) set(f netfilter.Forward) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return context.Canceled
	}
	return netfilter.Set(f)
}

func (r *rules) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used || r.ended {
		return nil
	}
	r.ended = true
	return netfilter.Clear()
}

// allPorts is the state of [Node.ForwardAll], which one goroutine uses.
type allPorts struct {
	host   string
	log    *slog.Logger
	set    [2]netfilter.Forward // of IPv4 and IPv6; without a target there are no rules
	once   bool                 // there was a target
	failed [2]string            // the last failures, which were logged

	find    func(ctx context.Context, network, host string, last netip.Addr) (netfilter.Forward, error) // forwardTo
	replace func(netfilter.Forward) error
	present func(netip.Addr) (bool, error)
	publish func(AllPorts)
}

func newAllPorts(n *Node, host string) *allPorts {
	return &allPorts{host: host, log: n.log, find: n.forwardTo, replace: n.rules.set, present: netfilter.Present, publish: func(s AllPorts) { n.allPorts.Store(&s) }}
}

// follow looks up the target, and sets the rules of a family if they change. A look-up that fails changes nothing.
func (f *allPorts) follow(ctx context.Context, except []uint16) {
	except = append(slices.Clone(except), HandoverPort)
	slices.Sort(except)
	except = slices.Compact(except)
	var errs [2]error
	for i, network := range []string{"tcp4", "tcp6"} {
		errs[i] = f.followFamily(ctx, i, network, except)
	}
	if ctx.Err() != nil {
		return
	}
	for i, err := range errs {
		// A target of one family only is no failure.
		if other := errs[1-i]; errors.Is(err, errNoAddress) && !f.set[i].Target.IsValid() && !errors.Is(other, errNoAddress) {
			errs[i] = nil
		}
	}
	for i, err := range errs {
		f.report(i, err)
	}
	now := AllPorts{Once: f.once, Err: errors.Join(errs[:]...)}
	for _, set := range f.set {
		if set.Target.IsValid() {
			now.Targets = append(now.Targets, set.Target)
		}
	}
	f.publish(now)
}

// followFamily is follow for the family with an index in set.
func (f *allPorts) followFamily(ctx context.Context, i int, network string, except []uint16) error {
	last := f.set[i]
	if last.Target.IsValid() {
		if there, err := f.present(last.Target); err == nil && !there {
			f.log.Warn("another program removed the rules that forward all ports; setting them again", "target", f.host, "address", last.Target.String(),
				"fix", "do not flush the ruleset of nftables on this host")
			if err := f.setRules(last); err != nil {
				f.set[i] = netfilter.Forward{}
				return err
			}
		}
	}
	want, err := f.find(ctx, network, f.host, last.Target)
	if err != nil {
		return err
	}
	want.Except = except
	if want.Target == last.Target && want.From == last.From && slices.Equal(want.Except, last.Except) {
		return nil
	}
	if err := f.setRules(want); err != nil {
		return err
	}
	f.set[i], f.once = want, true
	if want.Target != last.Target {
		f.log.Info("all ports forwarded into the tailnet", "target", f.host, "address", want.Target.String())
	}
	return nil
}

func (f *allPorts) setRules(to netfilter.Forward) error {
	if err := f.replace(to); err != nil {
		return fmt.Errorf("forwarding to %s: %w: %w", to.Target, ErrRulesRefused, err)
	}
	return nil
}

// report logs a failure of a family, unless it is the last one.
func (f *allPorts) report(i int, err error) {
	if err == nil {
		f.failed[i] = ""
		return
	}
	if text := err.Error(); text != f.failed[i] && !errors.Is(err, context.Canceled) {
		f.failed[i] = text
		fix := "correct ROUTER_EGRESS, or the tailnet's nodes and access rules"
		if errors.Is(err, ErrRulesRefused) {
			fix = "let no other program change nftables on this host, and see that its kernel has nftables with NAT"
		}
		f.log.Warn("forwarding all ports into the tailnet failed; retrying", "target", f.host, "family", []string{"IPv4", "IPv6"}[i], "err", err,
			"fix", fix)
	}
}

// close forwards no new flows.
func (f *allPorts) close() {
	for i, set := range f.set {
		if !set.Target.IsValid() {
			continue
		}
		set.OpenOnly = true
		if err := f.setRules(set); err != nil {
			f.report(i, err)
		}
	}
}

// errNoAddress is the error for a family of which this node or the target has no address.
var errNoAddress = errors.New("no address of the family")

// forwardTo returns the forwarding of a family, that of the network, to a host, without the exceptions. If the host is a
// name that still has the last target, it stays.
func (n *Node) forwardTo(ctx context.Context, network, host string, last netip.Addr) (netfilter.Forward, error) {
	ctx, cancel := context.WithTimeout(ctx, allPortsEvery)
	defer cancel()
	is4 := network == "tcp4"
	from, ok := n.ownAddress(is4)
	if !ok {
		return netfilter.Forward{}, fmt.Errorf("the router has %w", errNoAddress)
	}
	// The port is any that may be dialed.
	to, _, err := n.sys.Dialer.Get().UserDialPlan(ctx, network, net.JoinHostPort(host, "1"))
	dns, _ := errors.AsType[*net.DNSError](err)
	if _, other := errors.AsType[*net.AddrError](err); other || dns != nil && dns.IsNotFound {
		err = fmt.Errorf("%w: %w", errNoAddress, err)
	}
	if err != nil {
		return netfilter.Forward{}, fmt.Errorf("resolving %s: %w", host, err)
	}
	target := to.Addr().Unmap().WithZone("")
	if target.Is4() != is4 {
		return netfilter.Forward{}, fmt.Errorf("%s has %w", host, errNoAddress)
	}
	may := func(a netip.Addr) error { return n.mayDial(network, netip.AddrPortFrom(a, 1)) }
	if target != last && last.IsValid() && stillHas(ctx, net.DefaultResolver.LookupNetIP, network, host, target, last) && may(last) == nil {
		target = last
	}
	if err := may(target); err != nil {
		return netfilter.Forward{}, err
	}
	return netfilter.Forward{Device: tunName, Target: target, From: from, FirstPort: firstForwardPort, LastPort: lastKernelPort}, nil
}

// stillHas reports whether a name that was resolved to an address has another one as well. That is for names outside of
// MagicDNS, whose servers rotate the addresses: lookUp is a resolver's without MagicDNS, and has to know both.
func stillHas(ctx context.Context, lookUp func(ctx context.Context, network, host string) ([]netip.Addr, error), network, host string, found, other netip.Addr) bool {
	addrs, err := lookUp(ctx, "ip"+strings.TrimPrefix(network, "tcp"), host)
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return err == nil && slices.Contains(addrs, found) && slices.Contains(addrs, other)
}

// firstForwardPort is the first source port of forwarded flows: those of [dialKernel], as the router's listeners are
// below. The tailnet's side of such a flow is the kernel's, also with a [Node.Serve] of all ports.
const firstForwardPort = 49152
