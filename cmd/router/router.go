package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/denylist"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/handover"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/probe"
	"subnetrouter/internal/processors"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// router holds the parts and what they tell each other.
type router struct {
	cfg       config.Config
	log       *slog.Logger
	events    *eventlog.Log
	started   time.Time
	registry  *prometheus.Registry
	bootstrap *startup
	logins    *loginMetrics
	deny      *denylist.List
	forward   *forward.Forwarder
	flowLog   *flowLog // nil unless asked for
	relay     *handover.Coordinator
	prober    *probe.Prober
	verdict   chan struct{}                // the prober changed its mind
	node      atomic.Pointer[tailnet.Node] // nil while the engine comes up
	draining  atomic.Bool
	withdrawn atomic.Bool // because probes fail, and another router's do not
	drained   *drainMetrics
	overdue   atomic.Bool // not ready when the boot timeout passed
}

func newRouter(cfg config.Config, log *slog.Logger, events *eventlog.Log) (*router, error) {
	r := &router{cfg: cfg, log: log, events: events, started: time.Now(), registry: prometheus.NewRegistry(), verdict: make(chan struct{}, 1)}
	r.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	r.registerMetrics()
	r.bootstrap = newStartup(cfg, log, r.registry)
	r.logins = newLoginMetrics(r.registry)
	var err error
	if r.deny, err = r.newDenyList(cfg); err != nil {
		return nil, err
	}
	limitMemory(0, log) // the metadata may yet know of less
	r.drained = newDrainMetrics(r.registry)
	r.relay = r.newRelay()
	r.prober = r.newProber()
	data := forward.Config{
		Resolve:         resolveTarget,
		Deny:            r.deny.Denied,
		DenyDial:        denyDial,
		Allow:           r.allowsFlow,
		Peer:            r.nodeAddress,
		KeepAlive:       cfg.KeepAlive,
		MaxFlows:        cfg.MaxFlows,
		MaxFlowsPerPeer: cfg.MaxFlowsPerPeer,
		ReservedPorts:   []uint16{cfg.UDPPort},
		PeerRouters:     r.relay,
		Registerer:      r.registry,
		Logger:          log,
	}
	if cfg.FlowLog {
		r.flowLog = newFlowLog(secret.NewHandler(events.Plain()), r.registry, r.whoIs)
		data.Finished = r.flowLog.finished
	}
	r.forward, err = forward.New(data)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// startNode brings the engine up; nothing is said to control yet.
func (r *router) startNode() error {
	node, err := tailnet.New(r.nodeConfig())
	if err != nil {
		return err
	}
	r.node.Store(node)
	return nil
}

// nodeConfig returns the configuration of the engine.
func (r *router) nodeConfig() tailnet.Config {
	return tailnet.Config{
		ControlURL:        r.cfg.ControlURL,
		StateDir:          r.cfg.StateDir,
		Mode:              nodeMode(r.cfg.Mode),
		UDPPort:           r.cfg.UDPPort,
		Socket:            r.cfg.Socket,
		AcceptRoutes:      r.cfg.AcceptRoutes,
		NoSNAT:            !r.cfg.SNAT,
		StatefulFiltering: r.cfg.StatefulFiltering,
		Credential:        r.bootstrap.credentials.key,
		Refused:           r.bootstrap.boot.CredentialRefused,
		Joining:           r.logins.done,
		Forwarder:         r.forward,
		Handover:          r.relay,
		RulesChanged:      r.recheckFlows,
		Logger:            r.log,
	}
}

func nodeMode(m config.Mode) tailnet.Mode {
	switch m {
	case config.ModeUserspace:
		return tailnet.ModeUserspace
	case config.ModeKernel:
		return tailnet.ModeKernel
	}
	return tailnet.ModeAuto
}

// join makes the node a member, under the name of the task's family unless
// configured otherwise.
func (r *router) join(ctx context.Context) error {
	hostname := r.cfg.Hostname
	if hostname == "" {
		hostname = r.bootstrap.hostname(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	return r.node.Load().Join(tailnet.Identity{Hostname: hostname})
}

func (r *router) whoIs(addr netip.Addr) tailnet.Peer {
	if node := r.node.Load(); node != nil {
		return node.WhoIs(addr)
	}
	return tailnet.Peer{}
}

// nodeAddress is the address that stands for all of a peer's.
func (r *router) nodeAddress(addr netip.Addr) netip.Addr {
	if node := r.node.Load(); node != nil {
		return node.NodeAddress(addr)
	}
	return addr
}

// fit fits the limits to what the task metadata says of its memory and CPUs: on
// Fargate no control group of the container tells.
func (r *router) fit(ctx context.Context, s *processors.Scaler) error {
	place, err := r.bootstrap.awaitPlace(ctx)
	if err != nil {
		return nil
	}
	if limitMemory(place.Limits.MemoryMiB, r.log) {
		r.forward.RecomputeLimits()
	}
	if s != nil {
		s.Limit(place.Limits.CPU)
	}
	return nil
}

// keepRoutes advertises what the look-ups find, now and whenever it changes.
func (r *router) keepRoutes(ctx context.Context) error {
	r.bootstrap.followRoutes(ctx, r.cfg.Refresh, func(prefixes []netip.Prefix) {
		r.forward.SetRoutes(prefixes)
		r.node.Load().Advertise(prefixes)
	})
	return nil
}

// notReadyEvery is how often a router that is not ready says so: an alarm counts
// these lines, so that silence is health.
const notReadyEvery = time.Minute

// watchBoot speaks up if the router is not ready in time, and from then on
// whenever it is not. The process stays: what is missing may yet come, and a
// restart would not bring it.
func (r *router) watchBoot(ctx context.Context) error {
	booting := true
	for wait := r.cfg.BootTimeout; ; wait, booting = notReadyEvery, false {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		reasons := r.notReady()
		if len(reasons) == 0 || r.draining.Load() {
			continue
		}
		if booting {
			r.overdue.Store(true)
			for _, why := range reasons {
				r.log.Error("still not ready after the boot timeout; trying on",
					"boot_timeout", r.cfg.BootTimeout.String(), "reason", why.Code, "message", why.Message, "fix", why.Fix)
			}
		}
		codes := make([]string, len(reasons))
		for i, why := range reasons {
			codes[i] = why.Code
		}
		r.log.Error("router not ready", "reasons", codes, "message", reasons[0].Message)
	}
}

// watchReady says so once the router is ready, and again when it is after it was not:
// so that the log alone tells when a start, or a failure, was over.
func (r *router) watchReady(ctx context.Context) error {
	since, ready := time.Now(), false
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		was := ready
		ready = len(r.notReady()) == 0
		switch {
		case ready && !was:
			r.log.Info("router ready", "took", time.Since(since).Round(time.Millisecond).String())
		case was && !ready:
			since = time.Now()
		}
	}
}

func (r *router) leave(ctx context.Context) error {
	node := r.node.Load()
	if node == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("no answer for 10s"))
	defer cancel()
	return node.Close(ctx)
}

func (r *router) opsConfig() ops.Config {
	return ops.Config{
		Listen:   r.cfg.Listen,
		Gatherer: r.registry, Registerer: r.registry,
		Engine:   r.engineMetrics,
		Live:     r.live,
		NotReady: r.notReady,
		Warnings: r.warnings,
		Relays:   r.relays,
		Status:   r.status,
		Private:  !r.cfg.StatusPage,
		Logger:   r.log,
	}
}
