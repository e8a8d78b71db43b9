package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
	"subnetrouter/internal/netnstest"
)

// running is a subject that has been started.
type running struct {
	subject
	scope             *scope // owns everything of this subject
	name              string // unique; the node's host name
	host              *netnstest.Host
	dir               string
	internetIP, vpcIP netip.Addr
	limited           limits // zero: none

	proc      *process // nil: plain
	pids      []int
	firstByte time.Duration // from exec to the first byte through the route
}

// start starts a subject, and waits until a byte went through it to the VPC and back and
// until the client has a direct path to it.
func (w *world) start(ctx context.Context, s subject, t trial) (_ *running, err error) {
	w.started++
	n := byte(10 + w.started%240)
	r := &running{
		subject: s, scope: newScope(ctx),
		name:       fmt.Sprintf("%s-%d", s.name, w.started),
		internetIP: netip.AddrFrom4([4]byte{192, 168, 77, n}),
		vpcIP:      netip.AddrFrom4([4]byte{10, 0, 1, n}),
	}
	defer func() {
		if err != nil {
			w.stop(r)
		}
	}()
	var cmd *exec.Cmd
	failed := try(func() { cmd, err = w.prepare(r, t) })
	if failed != nil || err != nil {
		return nil, fmt.Errorf("preparing the router's host: %w", firstOf(failed, err))
	}
	if cmd == nil { // plain
		_, err := w.load(ctx, knock())
		return r, err
	}
	text, err := load.Encode(knock())
	if err != nil {
		return nil, err
	}
	knocking, err := w.beginRole(w.client, "load", text)
	if err != nil {
		return nil, err
	}
	defer knocking.close()
	// The client starts to connect before it has a route, so that the first attempt after
	// the route arrives comes soon.
	if err := w.sleep(100 * time.Millisecond); err != nil {
		return nil, err
	}
	began := time.Now()
	if r.proc, err = startProcess(r.scope, cmd); err != nil {
		return nil, err
	}
	first, err := knocking.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("awaiting the first byte: %w; the router: %w, output: %s", err, r.proc.alive(), r.proc.output.last())
	}
	r.firstByte = first.At.Sub(began)
	if err := w.awaitDirect(ctx, w.clientSocket, r.name); err != nil {
		return nil, fmt.Errorf("awaiting the direct path: %w", err)
	}
	r.pids = family(r.proc.cmd.Process.Pid)
	return r, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func knock() load.Generator {
	return load.FirstByte{
		Address: at(target.EchoPort), Every: 20 * time.Millisecond,
		Each: 5 * time.Second, Total: patience,
	}
}

// prepare creates the router's host and returns the command to run there, nil for plain.
func (w *world) prepare(r *running, t trial) (cmd *exec.Cmd, err error) {
	if r.dir, err = sharedDir(r.scope); err != nil {
		return nil, err
	}
	r.host = netnstest.New(r.scope).Host(fmt.Sprintf("router%d", w.started))
	w.internet.Plug(r.host, "eth0", r.internetIP.String()+"/24")
	w.vpcSwitch.Plug(r.host, "eth1", r.vpcIP.String()+"/24")
	r.host.IP("route", "add", vpcCIDR.String(), "via", gatewayIP)
	// As container runtimes set it, so that ICMP needs no capability.
	r.host.Sysctl("net.ipv4.ping_group_range", "0 2147483647")
	if w.wire != nil {
		w.useCongestionControl(r)
	}
	if r.subject.start == nil {
		return nil, w.routePlainly(r)
	}
	r.limited = cmp.Or(t.limits, r.subject.limits, w.limits)
	cmd, err = r.subject.start(w, r, t)
	if err != nil {
		return nil, err
	}
	var group *cgroup
	if r.limited != (limits{}) {
		if group, err = newCgroup(r.scope, "subnetrouter-bench-"+r.name, r.limited); err != nil {
			return nil, err
		}
	}
	return group.wrap(cmd, w.files), nil
}

// stop kills a subject and waits until the client has removed its route.
func (w *world) stop(r *running) error {
	r.scope.close()
	if r.proc == nil {
		return nil
	}
	// Not the run's context: the node has to be deleted even after Ctrl-C.
	ctx := context.WithoutCancel(r.scope.ctx)
	w.control.DeleteNode(ctx, r.name) // unless it never joined
	return w.poll("the client to remove the route", patience, w.routeGone)
}

// nodes returns the client and further hosts that reach the VPC through the router, n in all. They are
// nodes of their own, and end with the measurement.
func (m *measurement) nodes(ctx context.Context, n int) ([]*netnstest.Host, error) {
	list := []*netnstest.Host{m.client}
	for len(list) < n {
		i := len(list) + 1
		h, err := m.addNode(ctx, fmt.Sprintf("laptop%d", i), netip.AddrFrom4([4]byte{192, 168, 77, byte(2 + i)}))
		if err != nil {
			return nil, fmt.Errorf("adding a node: %w", err)
		}
		list = append(list, h)
	}
	return list, nil
}

func (m *measurement) addNode(ctx context.Context, name string, ip netip.Addr) (h *netnstest.Host, err error) {
	failed := try(func() {
		h = netnstest.New(m.r.scope).Host(fmt.Sprintf("%s-%d", name, m.started))
		m.internet.Plug(h, "eth0", ip.String()+"/24")
		if m.plain() {
			h.IP("route", "replace", vpcCIDR.String(), "via", m.r.internetIP.String())
		}
	})
	if failed != nil || m.plain() {
		return h, failed
	}
	m.r.scope.Cleanup(func() { m.control.DeleteNode(context.WithoutCancel(ctx), name) })
	socket, err := m.join(m.r.scope, h, name)
	if err != nil {
		return nil, err
	}
	text, err := load.Encode(knock())
	if err != nil {
		return nil, err
	}
	knocking, err := m.startRole(h, "load", text)
	if err != nil {
		return nil, err
	}
	knocking.close()
	return h, m.awaitDirect(ctx, socket, m.r.name)
}
