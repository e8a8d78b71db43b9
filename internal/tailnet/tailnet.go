// Package tailnet is the embedded Tailscale node: start, join, advertise,
// watch, close. It is the only importer of tailscale.com, so that a new
// Tailscale version is a change to one package.
//
// The backend runs in process, put together as tailscaled does it (engine,
// netstack, LocalBackend, LocalAPI), because tsnet forwards no subnet traffic.
// docs/decisions/0001-embed-the-backend.md says more.
package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/secret"

	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/tsd"
)

// Config says how to build the node. The zero value of a field means the
// default that its comment gives.
type Config struct {
	// ControlURL is the control server. Default: Tailscale's.
	ControlURL string
	// StateDir keeps the node's identity. Default: in memory, and the node
	// is ephemeral: control forgets it when it logs out.
	StateDir string
	// Mode is how packets are forwarded. Default: [ModeAuto].
	Mode Mode
	// UDPPort is WireGuard's port; 0 takes a free one.
	UDPPort uint16
	// Socket is the path of the LocalAPI socket. Default: none.
	Socket string
	// AcceptRoutes, NoSNAT and StatefulFiltering are the flags of the same
	// name of `tailscale up`. NoSNAT works in kernel mode only.
	AcceptRoutes, NoSNAT, StatefulFiltering bool
	// Credential returns an auth key. It is called only when control asks
	// for one, and again after each refusal.
	Credential func(context.Context) (secret.String, error)
	// Refused hears that control did not take the key that Credential
	// returned last. Nil drops it.
	Refused func()
	// Joining hears of every attempt to join once it is over, with nil or why
	// it failed: a [*JoinError], or the error of Credential. Nil drops it.
	Joining func(error)
	// RulesChanged is called after control has changed the access rules, and at other
	// times: see [Node.AllowsFlow]. Default: nothing is called.
	RulesChanged func()
	// Logger gets the node's transitions, and the engine's chatter at debug.
	Logger *slog.Logger
}

// Forwarder is the data path, as the node needs it: whole IP packets in and out.
// Packet i of a batch is at [offset:] of slice i.
type Forwarder interface {
	// Denied reports whether target, 4via6 undone, must never be reached. It
	// is asked for every packet, in both modes: it must not block or allocate.
	Denied(target netip.AddrPort) bool
	// Prohibit answers a packet whose target is denied, if an answer is due.
	Prohibit(packet []byte)
	// Deliver takes packets of one peer for addresses behind the node, which
	// are valid during the call only.
	Deliver(packets [][]byte, offset int)
	// Receive waits for packets to peers. An error is the end.
	Receive(bufs [][]byte, sizes []int, offset int) (n int, err error)
}

// Handover is what routers do for each other, as the node needs it.
type Handover interface {
	// Message takes what a node sent to [HandoverPort] of this one. It is valid during
	// the call only.
	Receive(from netip.Addr, payload []byte)
	// Active reports whether packets to clients are to be asked about.
	Active() bool
	// Route returns how a packet from behind this node gets to its client: directly, as
	// payload to another node's HandoverPort, or both. In a payload prefix precedes the
	// packet. An invalid address is no other node.
	Route(packet []byte) (direct bool, via netip.Addr, prefix []byte)
}

// Identity is who the node says it is.
type Identity struct {
	// Hostname is a DNS label; control makes it unique.
	Hostname string
}

// Node is a node of the tailnet. Its methods may be called from any goroutine. Before
// [Node.Start] has returned it is a node without addresses, peers and access rules.
type Node struct {
	cfg  Config
	log  *slog.Logger
	mode Mode
	why  string // why this mode

	// Start sets these, and closes started after it has: a method that may be called
	// before reads them only if Started reports true.
	started   chan struct{}
	forwarder Forwarder
	handover  Handover // nil is no hand-over

	sys    *tsd.System
	engine *frozenEngine
	lb     *ipnlocal.LocalBackend

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	state   state
	latency latencies
	asked   question
	unspent unspent // login's own

	registrar registrar

	mu        sync.Mutex
	desired   []netip.Prefix // what Advertise was last called with
	withdrawn bool           // for good
	held      bool           // until told otherwise
	kick      chan struct{}  // wakes the announcer: desired changed
	editPrefs func(*ipn.MaskedPrefs) error
	closed    bool
}

// New returns a node without an engine, which [Node.Start] brings up.
func New(cfg Config) (*Node, error) {
	if cfg.Logger == nil || cfg.Credential == nil {
		return nil, errors.New("building tailnet node: Logger and Credential are needed")
	}
	n := &Node{cfg: cfg, log: cfg.Logger, kick: make(chan struct{}, 1), started: make(chan struct{})}
	if n.cfg.Refused == nil {
		n.cfg.Refused = func() {}
	}
	if n.cfg.Joining == nil {
		n.cfg.Joining = func(error) {}
	}
	if n.cfg.RulesChanged == nil {
		n.cfg.RulesChanged = func() {}
	}
	n.registrar = engineRegistrar{n}
	n.editPrefs = func(p *ipn.MaskedPrefs) error {
		_, err := n.lb.EditPrefs(p)
		return err
	}
	n.state.init()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	var err error
	if n.mode, n.why, err = chooseMode(cfg.Mode); err != nil {
		return nil, err
	}
	n.log.Info("forwarding mode chosen", "mode", n.mode.String(), "why", n.why)
	return n, nil
}

// Start brings up the engine. f takes packets for addresses behind the node; h talks to
// other routers, and shares flows with them while one drains (userspace mode only; nil is no
// hand-over). Nothing is sent to control before [Node.Join]. Start may be called once.
func (n *Node) Start(f Forwarder, h Handover) error {
	n.forwarder, n.handover = f, h
	if err := n.buildBackend(); err != nil {
		n.cancel()
		return fmt.Errorf("starting tailscale engine: %w", err)
	}
	n.serveLocalAPI()
	close(n.started)
	return nil
}

// Started reports whether the engine is up.
func (n *Node) Started() bool {
	select {
	case <-n.started:
		return true
	default:
		return false
	}
}

// Join makes the node a member of the tailnet and keeps it one: with valid
// state no credential is fetched; when control asks for one, it is, with
// backoff, for as long as it takes. Join returns at once; see [Node.Status].
func (n *Node) Join(id Identity) error {
	watching := make(chan struct{})
	n.wg.Go(func() { n.watch(watching) })
	<-watching

	prefs := ipn.NewPrefs()
	prefs.WantRunning = true
	prefs.ControlURL = n.cfg.ControlURL
	prefs.Hostname = id.Hostname
	prefs.RouteAll = n.cfg.AcceptRoutes
	prefs.NoSNAT = n.cfg.NoSNAT
	prefs.NoStatefulFiltering.Set(!n.cfg.StatefulFiltering)
	// A router has no use for the tailnet's DNS, and must not rewrite the
	// resolver of the host that it runs on in kernel mode.
	prefs.CorpDNS = false
	if err := n.lb.Start(ipn.Options{UpdatePrefs: prefs}); err != nil {
		return fmt.Errorf("joining tailnet: %w", err)
	}
	n.wg.Go(n.login)
	n.wg.Go(n.announce)
	n.wg.Go(n.watchRules)
	n.wg.Go(n.confirm)
	return nil
}

// Mode is how the node forwards, and why.
func (n *Node) Mode() (Mode, string) { return n.mode, n.why }

// Close leaves: an ephemeral node logs out, so that control forgets it at once.
// It is bounded by ctx, and by a few seconds where control does not answer.
// The process should exit soon after: the userspace stack is not torn down,
// since closing it can deadlock while connections are open (tailscale.com
// v1.102.5, wgengine/netstack: aborts fill a queue that nobody reads any more).
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	already := n.closed
	n.closed = true
	n.mu.Unlock()
	if already || !n.Started() {
		return nil
	}
	// A node that logs out needs a login, and control knows it no longer.
	n.state.set(func(s *Status) { s.leaving = true })
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.lb.Shutdown()
		n.cancel()
		n.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		n.cancel()
		return fmt.Errorf("leaving tailnet: %w", context.Cause(ctx))
	}
}

// backoff gives growing pauses with jitter, reset by a success.
type backoff struct{ tries int }

func (b *backoff) next() time.Duration {
	const first, most = time.Second, time.Minute
	d := most
	if b.tries < 6 {
		d = min(first<<b.tries, most)
	}
	b.tries++
	return jitter(d)
}
