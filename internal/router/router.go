package router

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/config"
	"subnetrouter/internal/denylist"
	"subnetrouter/internal/dns"
	"subnetrouter/internal/egress"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/handover"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/probe"
	"subnetrouter/internal/processors"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// Router is one router: its parts, and the state that they share. Create it with [New].
type Router struct {
	cfg          config.Config
	opts         Options
	log          *slog.Logger
	events       *eventlog.Log
	started      time.Time
	registry     *prometheus.Registry
	lookUps      *lookUps
	logins       *loginMetrics
	deny         *denylist.List
	forward      *forward.Forwarder
	flowLog      *flowLog       // nil unless asked for
	access       *accessControl // nil unless asked for
	emf          *emf           // nil unless asked for
	resolver     *resolver      // nil unless asked for
	served       *served
	tlsPorts     *tlsPorts      // nil unless asked for
	egress       *egress.Server // nil unless asked for
	noEgress     chan struct{}  // closed when new flows into the tailnet are refused
	dns          *dnsRegistrar
	peerDNS      *peerDNSMetrics
	peerDNSGate  *dns.Gate
	peers        *handover.Coordinator
	prober       *probe.Prober
	probeChanged chan struct{} // signaled when a probe's result changes
	node         *tailnet.Node
	draining     atomic.Bool
	heldBack     atomic.Bool // routes are held back: probes fail here and pass at a peer router
	drainMetrics *drainMetrics
	bootOverdue  atomic.Bool                       // was not ready within the boot timeout
	hostname     atomic.Value                      // string: the hostname asked of control, from the first join on
	identity     atomic.Pointer[identity.Identity] // nil until it is open
}

// New builds a router. It starts only the workers of the data path. It creates the node
// first, without its engine, because the other parts call it as soon as they exist.
func New(cfg config.Config, opts Options, log *slog.Logger, events *eventlog.Log) (r *Router, err error) {
	r = &Router{
		cfg: cfg, opts: opts, log: log, events: events, started: time.Now(),
		registry: prometheus.NewRegistry(), probeChanged: make(chan struct{}, 1), noEgress: make(chan struct{}),
	}
	limits.SetMemory(0, opts.KeepMemoryLimit, log) // task metadata may report a lower limit later
	r.lookUps = newLookUps(cfg, log, r.registry)
	r.dns = newDNSRegistrar(cfg.DNSRegister, r.lookUps.boot, r.ownDNS, log, r.registry)
	r.logins = newLoginMetrics(r.registry)
	if r.deny, err = r.newDenyList(cfg); err != nil {
		return nil, err
	}
	r.peerDNS = newPeerDNSMetrics(r.registry)
	if r.node, err = tailnet.New(r.nodeConfig()); err != nil {
		return nil, err
	}
	r.served = newServed(cfg.Serve, r.node.Owns, r.mayServe, log)
	for port := range r.served.ports {
		r.node.Serve(port)
	}
	r.peers = r.newCoordinator()
	if cfg.FlowLog {
		r.flowLog = newFlowLog(secret.NewHandler(events.Plain()), r.registry, r.node.WhoIs)
	}
	r.access = newAccess(cfg, r.lookUps.boot, r.lookUps.steps, r.node, r.recheckFlows, r.flowLog, log, r.registry)
	if r.forward, err = forward.New(r.forwardConfig()); err != nil {
		return nil, err
	}
	if r.tlsPorts, err = r.newTLSPorts(); err != nil {
		return nil, err
	}
	if cfg.DNS {
		if r.resolver, err = r.newResolver(dnsQuestions(limits.MaxOpenFiles())); err != nil {
			return nil, err
		}
	}
	r.peerDNSGate = r.newPeerDNSGate()
	if r.egress, err = r.newEgress(); err != nil {
		return nil, err
	}
	r.prober = r.newProber()
	r.drainMetrics = newDrainMetrics(r.registry)
	r.registerMetrics()
	if cfg.EMF {
		r.emf = r.newEMF()
	}
	return r, nil
}

func (r *Router) forwardConfig() forward.Config {
	cfg := forward.Config{
		Resolve:  r.opts.Resolve,
		Deny:     r.deny.Denied,
		DenyDial: r.opts.DenyDial,
		Allow:    r.node.AllowsFlow,
		Served:   r.served.lookUp,
		Front:    r.served.frontOf,
		Rejection: func(why forward.Refusal, protocol uint8, client, dst netip.AddrPort) []byte {
			return tailnet.Rejection(why == forward.RefusedByAdmit, protocol, client, dst)
		},
		Peer:            r.node.NodeAddress,
		KeepAlive:       r.cfg.KeepAlive.For,
		TargetKeepAlive: r.cfg.TargetKeepAlive,
		Congestion:      congestions[r.cfg.Congestion],
		MaxFlows:        r.cfg.MaxFlows,
		MaxFlowsPerPeer: r.cfg.MaxFlowsPerPeer,
		ReservedPorts:   []uint16{r.cfg.UDPPort, r.cfg.PeerRelay},
		ReservedFiles:   r.filesOfDNS() + r.filesOfEgress() + r.filesOfTLS(),
		PeerRouters:     r.peers,
		Registerer:      r.registry,
		Logger:          r.log,
	}
	if r.flowLog != nil {
		cfg.Finished = r.flowLog.finished
	}
	r.access.configure(&cfg)
	if len(r.cfg.ProxyProtocol) > 0 || r.cfg.TerminatesTLS() || r.cfg.AnswersHTTP() {
		cfg.Preface = r.preface
	}
	return cfg
}

// congestions has the data path's name of each congestion control.
var congestions = map[config.Congestion]forward.Congestion{config.CongestionBBR: forward.BBR, config.CongestionCUBIC: forward.CUBIC}

// nodeConfig returns the configuration of the engine.
func (r *Router) nodeConfig() tailnet.Config {
	return tailnet.Config{
		ControlURL:         r.cfg.ControlURL,
		VarRoot:            identity.Dir(r.cfg.Identity.Source),
		Mode:               tailnet.ParseMode(r.cfg.Mode.String()),
		UDPPort:            r.cfg.UDPPort,
		Socket:             r.cfg.Socket,
		AcceptRoutes:       r.cfg.AcceptRoutes,
		NoSNAT:             !r.cfg.SNAT,
		StatefulFiltering:  r.cfg.StatefulFiltering,
		Credential:         r.lookUps.credentials.key,
		CredentialRefused:  r.lookUps.boot.CredentialRefused,
		LoginAttempted:     r.logins.attempted,
		RulesChanged:       r.recheckFlows,
		ExitNode:           r.cfg.ExitNode,
		AppConnector:       r.cfg.AppConnector,
		PeerRelay:          r.cfg.PeerRelay,
		PeerRelayEndpoints: r.cfg.PeerRelayEndpoints,
		PeerAPIOpened:      r.deny.OpenedPort,
		Exclude:            r.cfg.Routes.Exclude,
		AdmitPeerDNS:       r.admitPeerDNS,
		PeerDNSAnswered:    r.peerDNS.answered,
		Logger:             r.log,
	}
}

// join joins the tailnet with the configured hostname, or one derived from the task's
// family.
func (r *Router) join(ctx context.Context) error {
	hostname := r.cfg.Hostname
	if hostname == "" {
		hostname = r.lookUps.hostname(ctx)
	}
	hostname = r.ownHostname(hostname)
	if ctx.Err() != nil {
		return nil
	}
	r.hostname.Store(hostname)
	return r.node.Join(tailnet.Identity{Hostname: hostname})
}

// fitLimits sets the limits from the memory and CPUs in task metadata: on Fargate the
// container's control group does not have them.
func (r *Router) fitLimits(ctx context.Context, s *processors.Scaler) error {
	place, err := r.lookUps.awaitPlace(ctx)
	if err != nil {
		return nil
	}
	if limits.SetMemory(place.Limits.MemoryMiB, r.opts.KeepMemoryLimit, r.log) {
		r.forward.RecomputeLimits()
	}
	if s != nil {
		s.Limit(place.Limits.CPU)
	}
	return nil
}

// followRoutes advertises the routes that the look-ups find, and follows their changes.
func (r *Router) followRoutes(ctx context.Context) error {
	r.lookUps.followRoutes(ctx, r.cfg.Refresh, r.forward.InUse, func(prefixes []netip.Prefix) {
		r.forward.SetRoutes(r.withExitRoutes(prefixes))
		r.serveDNS(prefixes)
		r.node.Advertise(prefixes)
	})
	return nil
}

// followZones keeps the zones for split DNS, if any are configured.
func (r *Router) followZones(ctx context.Context) error {
	if !r.cfg.Zones.None() {
		r.lookUps.followZones(ctx, r.cfg.Refresh)
	}
	return nil
}

// notReadyEvery is the interval at which a router that is not ready logs it. An alarm
// counts these lines.
const notReadyEvery = time.Minute

// logNotReady logs the reasons if the router is not ready within the boot timeout, and once
// per notReadyEvery after it. The process does not exit: the failure may be temporary, and
// a restart would not fix it.
func (r *Router) logNotReady(ctx context.Context) error {
	booting := true
	for wait := r.cfg.BootTimeout; ; wait, booting = notReadyEvery, false {
		if !backoff.Sleep(ctx, wait) {
			return nil
		}
		reasons := r.notReady()
		if len(reasons) == 0 || r.draining.Load() {
			continue
		}
		if booting {
			r.bootOverdue.Store(true)
			for _, why := range reasons {
				r.log.Error("not ready within the boot timeout; still retrying",
					"boot_timeout", r.cfg.BootTimeout.String(), "reason", string(why.Code), "message", why.Message, "fix", why.Fix)
			}
		}
		codes := make([]string, len(reasons))
		for i, why := range reasons {
			codes[i] = string(why.Code)
		}
		r.log.Error("router not ready", "reasons", codes, "message", reasons[0].Message, "fix", reasons[0].Fix)
	}
}

// logReady logs each change from not ready to ready, so that the log shows when a start or
// a failure ended.
func (r *Router) logReady(ctx context.Context) error {
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

// closeNode logs the node out, if it is ephemeral, and stops the engine.
func (r *Router) closeNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("no answer within 10s"))
	defer cancel()
	return r.node.Close(ctx)
}

func (r *Router) opsConfig() ops.Config {
	return ops.Config{
		Listen:   r.cfg.Listen,
		Gatherer: r.registry, Registerer: r.registry,
		Engine:   r.node.ServeMetrics,
		Live:     r.live,
		NotReady: r.notReady,
		Warnings: r.warnings,
		DERPMap:  r.node.DERPMap,
		Status:   r.status,
		Why:      r.why,
		Private:  !r.cfg.StatusPage,
		Logger:   r.log,
	}
}

// Metrics gathers the metrics of /metrics, without those of the engine.
func (r *Router) Metrics() prometheus.Gatherer { return r.registry }

// Close ends the data path of a router that does not run.
func (r *Router) Close() {
	r.forward.Close()
	r.resolver.close()
}
