package tailnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"subnetrouter/internal/netfilter"
	"subnetrouter/internal/problem"

	"tailscale.com/control/controlclient"
	"tailscale.com/envknob"
	"tailscale.com/hostinfo"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/dns"
	"tailscale.com/net/netmon"
	"tailscale.com/net/netns"
	"tailscale.com/net/tsdial"
	"tailscale.com/net/tstun"
	"tailscale.com/tsd"
	"tailscale.com/types/logid"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/router"
)

// tunName is the name of the device in kernel mode, as in tailscaled.
const tunName = "tailscale0"

func init() {
	// No log of this program goes to Tailscale: the uploader is not linked in. Report
	// that to control.
	envknob.SetNoLogsNoSupport()
	// No NAT device in a VPC answers port mapping requests.
	envknob.Setenv("TS_DISABLE_PORTMAPPER", "true")
}

// buildBackend creates the engine, its parts and the backend, in tailscaled's order.
func (n *Node) buildBackend(kept State) error {
	kernel := n.mode == ModeKernel
	logf := n.engineLogf()
	hostinfo.SetApp("subnetrouter")

	sys := tsd.NewSystem()
	sys.SocketPath = n.cfg.Socket
	n.sys = sys

	monitor, err := netmon.New(sys.Bus.Get(), logf)
	if err != nil {
		return fmt.Errorf("watching network interfaces: %w", err)
	}
	sys.Set(monitor)

	dialer := &tsdial.Dialer{Logf: logf}
	dialer.SetBus(sys.Bus.Get())
	sys.Set(dialer)
	sys.HealthTracker.Get().SetMetricsRegistry(sys.UserMetricsRegistry())

	conf := wgengine.Config{
		ListenPort:    n.cfg.UDPPort,
		NetMon:        monitor,
		HealthTracker: sys.HealthTracker.Get(),
		Metrics:       sys.UserMetricsRegistry(),
		Dialer:        dialer,
		SetSubsystem:  sys.Set,
		ControlKnobs:  sys.ControlKnobs(),
		EventBus:      sys.Bus.Get(),
	}
	netns.SetEnabled(kernel)
	if kernel {
		if err := n.openKernelDevice(&conf); err != nil {
			return err
		}
	} else {
		conf.Tun = newFlowDevice(n)
	}
	engine, err := wgengine.NewUserspaceEngine(logf, conf)
	if err != nil {
		return err
	}
	n.engine = newFrozenEngine(engine)
	n.engine.withoutPeerAPI = !n.cfg.servesPeers()
	sys.Set(n.engine)
	sys.NetstackRouter.Set(!kernel)

	n.hookPackets(sys.Tun.Get())

	stateStore, flags := n.openState(kept)
	n.keptIn = stateStore
	sys.Set(stateStore)
	sys.Tun.Get().Start()
	if kernel {
		go n.injectReplies(sys.Tun.Get())
	}

	lb, err := ipnlocal.NewLocalBackend(logf, logid.PublicID{}, sys, flags)
	if err != nil {
		return err
	}
	n.lb = lb
	n.engine.attach(lb)
	lb.SetVarRoot(n.cfg.VarRoot)
	if n.cfg.AppConnector {
		connectors.Store(lb, n)
	}
	if !kernel {
		n.dialFromNode(dialer)
	}
	return nil
}

// openKernelDevice adds the TUN device, and the configuration of the host's addresses,
// routes and source NAT. It leaves DNS alone.
func (n *Node) openKernelDevice(conf *wgengine.Config) error {
	logf := n.engineLogf()
	dev, name, err := openTUN(logf)
	if err != nil {
		tstun.Diagnose(logf, tunName, err)
		return fmt.Errorf("opening TUN device: %w", err)
	}
	// The rules of a process that crashed would still lead into the tailnet. Without nftables there are none. While the
	// device is another router's, so are the rules.
	_ = netfilter.Clear()
	r, err := router.New(logf, dev, n.sys.NetMon.Get(), n.sys.HealthTracker.Get(), n.sys.Bus.Get())
	if err != nil {
		dev.Close()
		return fmt.Errorf("configuring host network for %s: %w", name, err)
	}
	noDNS, err := dns.NewNoopManager()
	if err != nil {
		dev.Close()
		r.Close()
		return err
	}
	n.sys.Set(r)
	conf.Tun, conf.Router, conf.DNS = dev, r, noDNS
	return enableForwarding(n.log)
}

// dialFromNode has the engine open connections to peers, such as those of `tailscale nc`,
// through the Forwarder. UDP is not offered: nothing that is linked in needs it.
func (n *Node) dialFromNode(dialer *tsdial.Dialer) {
	dialer.UseNetstackForIP = func(ip netip.Addr) bool {
		_, ok := n.lb.PeerForIP(ip)
		return ok
	}
	dialer.NetstackDialTCP = func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
		from, ok := n.ownAddress(dst.Addr().Is4())
		if !ok {
			return nil, fmt.Errorf("connecting to %v: this node has no address of that family", dst)
		}
		return n.forwarder.DialTCP(ctx, from, dst)
	}
	dialer.NetstackDialUDP = func(context.Context, netip.AddrPort) (net.Conn, error) {
		return nil, errors.ErrUnsupported
	}
}

// openState opens the state store, which decides whether the node outlives its process.
// A node with in-memory state is ephemeral: two tasks of a rolling deployment never
// share a node key.
func (n *Node) openState(kept State) (ipn.StateStore, controlclient.LoginFlags) {
	if kept == nil {
		return new(mem.Store), controlclient.LoginEphemeral
	}
	s, lasts := openStateStore(kept, func(err error) {
		if err == nil {
			n.state.set(func(s *Status) { s.StateError = nil })
			n.log.Info("the node's state is stored again", "state", kept.String())
			return
		}
		p := *problem.Of(err)
		p.Code, p.Fix = problem.StateUnwritable, cmp.Or(p.Fix, stateFix)
		n.state.set(func(s *Status) { s.StateError = &p })
		n.log.Error("the node's state cannot be stored; after a restart the router will be a new node", "err", err, "fix", p.Fix)
	})
	n.wg.Go(func() { s.run(n.ctx) })
	if !lasts && n.cfg.VarRoot != "" { // a folder that cannot be written; other places may only be slow
		return s, controlclient.LoginEphemeral
	}
	return s, controlclient.LoginDefault
}

const stateFix = "let the task's user write to the folder of ROUTER_STATE, or leave the container CAP_CHOWN and CAP_DAC_OVERRIDE without no-new-privileges, and free disk space if needed; restore or delete a file that cannot be read; or set ROUTER_STATE=mem: and a credential"
