package tailnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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
	f := allPorts{n: n, host: host}
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
	n      *Node
	host   string
	set    [2]netfilter.Forward // of IPv4 and IPv6; without a target there are no rules
	failed string               // the last failure, which was logged
}

// follow looks up the target, and sets the rules of a family if they change. A look-up that fails changes nothing.
func (f *allPorts) follow(ctx context.Context, except []uint16) {
	except = append(slices.Clone(except), HandoverPort)
	slices.Sort(except)
	var errs []error
	for i, network := range []string{"tcp4", "tcp6"} {
		want, err := f.n.forwardTo(ctx, network, f.host)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		want.Except = slices.Compact(except)
		last := f.set[i]
		if want.Target == last.Target && want.From == last.From && slices.Equal(want.Except, last.Except) {
			continue
		}
		if err := f.n.rules.set(want); err != nil {
			f.fail(err)
			return
		}
		f.set[i] = want
		if want.Target != last.Target {
			f.n.log.Info("all ports forwarded into the tailnet", "target", f.host, "address", want.Target.String())
		}
	}
	switch {
	case len(errs) < len(f.set):
		f.failed = ""
	case ctx.Err() == nil:
		f.fail(errs[0])
	}
}

// fail logs a failure, unless it is the last one.
func (f *allPorts) fail(err error) {
	if text := err.Error(); text != f.failed && !errors.Is(err, context.Canceled) {
		f.failed = text
		f.n.log.Warn("forwarding all ports into the tailnet failed; retrying", "target", f.host, "err", err, "fix", "correct ROUTER_EGRESS, or the tailnet's nodes and access rules")
	}
}

// close forwards no new flows.
func (f *allPorts) close() {
	for _, set := range f.set {
		if !set.Target.IsValid() {
			continue
		}
		set.OpenOnly = true
		if err := f.n.rules.set(set); err != nil {
			f.fail(err)
		}
	}
}

// forwardTo returns the forwarding of a family, that of the network, to a host, without the exceptions.
func (n *Node) forwardTo(ctx context.Context, network, host string) (netfilter.Forward, error) {
	ctx, cancel := context.WithTimeout(ctx, allPortsEvery)
	defer cancel()
	is4 := network == "tcp4"
	from, ok := n.ownAddress(is4)
	if !n.Started() || !ok {
		return netfilter.Forward{}, errors.New("the router has no tailnet address of the family")
	}
	// The port is any that may be dialed.
	to, _, err := n.sys.Dialer.Get().UserDialPlan(ctx, network, net.JoinHostPort(host, "1"))
	if err != nil {
		return netfilter.Forward{}, fmt.Errorf("resolving %s: %w", host, err)
	}
	target := to.Addr().Unmap().WithZone("")
	if target.Is4() != is4 {
		return netfilter.Forward{}, fmt.Errorf("%s is of another family", host)
	}
	if err := n.mayDial(network, netip.AddrPortFrom(target, 1)); err != nil {
		return netfilter.Forward{}, err
	}
	return netfilter.Forward{Device: tunName, Target: target, From: from, FirstPort: firstForwardPort, LastPort: lastKernelPort}, nil
}

// firstForwardPort is the first source port of forwarded flows: those of [dialKernel], as the router's listeners are
// below. The tailnet's side of such a flow is the kernel's, also with a [Node.Serve] of all ports.
const firstForwardPort = 49152
