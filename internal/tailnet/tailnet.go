// Package tailnet embeds a Tailscale node. It is the only importer of
// tailscale.com, so that a new Tailscale version changes one package.
//
// It assembles the engine, LocalBackend and LocalAPI as tailscaled does, because tsnet
// forwards no subnet traffic: see docs/decisions/0001-embed-the-backend.md. Tailscale's
// userspace stack (wgengine/netstack) is not part of it: the [Forwarder] serves the node's
// own addresses too.
//
// Locks, outermost first: LocalBackend's, [frozenEngine].mu, then the engine's own.
// Node.mu, state.mu and the other mutexes of this package are leaves: nothing that
// blocks, logs or calls the engine runs while one is held, except for relay.mu. The engine calls
// [Node.watchLog] and [stateStore.WriteState] with its locks held.
package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/packet"
	"subnetrouter/internal/secret"

	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnauth"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/tsd"
)

// Config configures a node. A comment gives the default that a field's zero value
// stands for.
type Config struct {
	// ControlURL is the URL of the control server. Default: Tailscale's.
	ControlURL string
	// VarRoot is the folder of the engine's files other than the state. Default: it stores
	// none.
	VarRoot string
	// Mode selects who forwards packets. Default: [ModeAuto].
	Mode Mode
	// UDPPort is WireGuard's port. Default: a free one.
	UDPPort uint16
	// Socket is the path of the LocalAPI socket. Default: none.
	Socket string
	// AcceptRoutes, NoSNAT and StatefulFiltering are the flags of the same
	// name of `tailscale up`. NoSNAT works in kernel mode only.
	AcceptRoutes, NoSNAT, StatefulFiltering bool
	// ExitNode and AppConnector are roles besides that of a subnet router. With either, the node
	// answers the DNS queries of peers that may use it.
	ExitNode, AppConnector bool
	// PeerRelay is the UDP port of a peer relay, another role. Default: none.
	PeerRelay uint16
	// PeerRelayEndpoints are endpoints of the relay that it cannot find itself.
	PeerRelayEndpoints []netip.AddrPort
	// Credential returns an auth key. It is called only when control asks for one,
	// and again after control refused one or left one unanswered for keyWait. It may
	// block until its context ends.
	//
	// The login goroutine alone calls Credential, CredentialRefused and
	// LoginAttempted, so never two at once.
	Credential func(context.Context) (secret.String, error)
	// CredentialRefused is called when control has refused the key that Credential
	// returned last. Default: not called.
	CredentialRefused func()
	// LoginAttempted is called at the end of each attempt to join, with nil or the
	// cause of the failure: a [*problem.Problem], or the error of Credential. An attempt
	// that failed may still succeed later, in which case it is called again.
	// Default: not called.
	LoginAttempted func(error)
	// RulesChanged is called after control has changed the access rules, and at other
	// times, always from the same goroutine: see [Node.AllowsFlow]. Default: not
	// called.
	RulesChanged func()
	// PeerAPIOpened is called with each port of the peer API, which the engine also binds on the
	// host. Default: not called.
	PeerAPIOpened func(port uint16)
	// Exclude are prefixes that the app connector never advertises.
	Exclude []netip.Prefix
	// AdmitPeerDNS admits a DNS query of a peer, unless the peer sends too many; leave is called
	// when the query is answered. Default: all are admitted.
	AdmitPeerDNS func(peer netip.Addr) (leave func(), ok bool)
	// PeerDNSAnswered is called after each DNS query of a peer. Default: not called.
	PeerDNSAnswered func(PeerDNSResult)
	// Logger logs the node's transitions, and the engine's log at debug level.
	Logger *slog.Logger
}

// Forwarder is the node's interface to the data path: whole IP packets in and out.
//
// The caller owns each packet that is an argument, which is valid during the call only.
// Denied, Prohibit, Deliver and DeliverOwn are called by the engine's goroutines that
// receive from WireGuard, and must not block; Receive is called by one goroutine.
type Forwarder interface {
	// Denied reports whether the deny list has target, which is not a 4via6 address.
	// It is called for every packet, in both modes, and must not allocate.
	Denied(target netip.AddrPort) bool
	// Prohibit answers a packet to a denied target, if it requires an answer.
	Prohibit(packet []byte)
	// Deliver delivers packets of one peer for addresses behind the node. Packet i
	// begins at offset of packets[i].
	Deliver(packets [][]byte, offset int)
	// ResponderAddr returns the address behind the node whose packets must all be delivered, also
	// in kernel mode; zero if there is none. It is called for every packet, and must not allocate.
	ResponderAddr() netip.Addr
	// DeliverOwn delivers a packet of a peer for one of the node's own addresses. In kernel
	// mode it is called for the ports of Listen only.
	DeliverOwn(packet []byte)
	// Listen listens on a TCP port of the node's own addresses.
	Listen(port uint16) (net.Listener, error)
	// DialTCP opens a TCP connection from one of the node's own addresses to a peer, in
	// userspace mode.
	DialTCP(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error)
	// DialUDP opens a UDP socket at one of the node's own addresses that exchanges datagrams
	// with a peer, in userspace mode.
	DialUDP(from netip.Addr, to netip.AddrPort) (net.Conn, error)
	// Receive waits for packets to peers, and adds as many to an empty slab as fit. An
	// error means that there will be no more packets.
	Receive(to *packet.Slab) error
}

// Handover is the node's interface to the hand-over between routers.
type Handover interface {
	// Receive handles a datagram that a node sent to this one's [HandoverPort]. It is
	// called by the goroutines that receive from WireGuard, and must not block. The
	// payload is valid during the call only.
	Receive(from netip.Addr, payload []byte)
	// Active reports whether packets to clients must be passed to Route.
	Active() bool
	// Route returns the ways by which a packet from behind this node is to go to its
	// client: directly, as the payload of a datagram to another node's HandoverPort
	// (via is valid), or both. The payload is prefix followed by the packet. The
	// goroutine that reads the device calls it.
	Route(packet []byte) (direct bool, via netip.Addr, prefix []byte)
}

// Identity is the identity that the node asks control for.
type Identity struct {
	// Hostname is a DNS label. Control makes it unique.
	Hostname string
}

// Node is a node of the tailnet. Its methods may be called from any goroutine. Before
// [Node.Start] has returned it is a node without addresses, peers and access rules.
//
// Join starts one goroutine each for the functions watch, login, announce, watchRules and
// confirm, which communicate through state. They end with ctx.
type Node struct {
	cfg        Config
	log        *slog.Logger
	mode       Mode
	modeReason string // the reason for mode

	// Start sets these, and closes started after it has: a method that may be called
	// before reads them only if Started reports true.
	started   chan struct{}
	forwarder Forwarder
	handover  Handover // nil is no hand-over
	kept      bool     // the identity may be that of an earlier process
	keptIn    ipn.StateStore

	sys    *tsd.System
	engine *frozenEngine
	lb     *ipnlocal.LocalBackend

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	state      state
	latency    latencies
	users      users
	responsive sharedCall
	pendingKey unansweredKey // only login's goroutine uses it

	registrar registrar
	listening listeningPorts
	serving   listeningPorts
	connector appConnector
	relay     relayState
	rules     rules
	allPorts  atomic.Pointer[AllPorts]

	// routesChanged has an element if a field that routesToAdvertise reads may have
	// changed since announce last called it. Its capacity is 1.
	routesChanged chan struct{}

	mu sync.Mutex // covers the fields below
	// The routes to advertise are desired unless heldBack or withdrawn. HoldBack sets
	// and resets heldBack. Withdraw sets withdrawn, for good: desired stays as it was. It
	// is nil before the first Advertise.
	desired   []netip.Prefix
	heldBack  bool
	withdrawn bool
	editPrefs func(*ipn.MaskedPrefs) error // LocalBackend.EditPrefs; tests replace it
	closed    bool                         // Close was called
}

// New returns a node without an engine, which [Node.Start] starts.
func New(cfg Config) (*Node, error) {
	if cfg.Logger == nil || cfg.Credential == nil {
		return nil, errors.New("building tailnet node: Logger and Credential must be set")
	}
	n := &Node{cfg: cfg, log: cfg.Logger, routesChanged: make(chan struct{}, 1), started: make(chan struct{})}
	if n.cfg.CredentialRefused == nil {
		n.cfg.CredentialRefused = func() {}
	}
	if n.cfg.LoginAttempted == nil {
		n.cfg.LoginAttempted = func(error) {}
	}
	if n.cfg.RulesChanged == nil {
		n.cfg.RulesChanged = func() {}
	}
	if n.cfg.PeerAPIOpened == nil {
		n.cfg.PeerAPIOpened = func(uint16) {}
	}
	if n.cfg.AdmitPeerDNS == nil {
		n.cfg.AdmitPeerDNS = func(netip.Addr) (func(), bool) { return func() {}, true }
	}
	if n.cfg.PeerDNSAnswered == nil {
		n.cfg.PeerDNSAnswered = func(PeerDNSResult) {}
	}
	n.connector.exclude = cfg.Exclude
	n.registrar = engineRegistrar{n}
	n.editPrefs = func(p *ipn.MaskedPrefs) error {
		_, err := n.lb.EditPrefs(p)
		return err
	}
	n.state.init()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	var err error
	if n.mode, n.modeReason, err = chooseMode(cfg.Mode); err != nil {
		return nil, err
	}
	n.log.Info("forwarding mode chosen", "mode", n.mode.String(), "why", n.modeReason)
	return n, nil
}

// Start starts the engine. f takes packets for addresses behind the node; h talks to
// other routers, and shares flows with them while one drains (userspace mode only; nil is no
// hand-over). kept has the node's identity; with nil it is in memory, and the node is
// ephemeral: control removes it when it logs out. Nothing is sent to control before
// [Node.Join]. Start may be called once.
func (n *Node) Start(f Forwarder, h Handover, kept State) error {
	n.forwarder, n.handover, n.kept = f, h, kept != nil
	if err := n.buildBackend(kept); err != nil {
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

// Join makes the node a member of the tailnet, and again whenever control requires it.
// A credential is fetched only when control asks for one; failures are retried, with
// backoff, until the node closes. Join returns at once: see [Node.Status].
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
	prefs.AppConnector.Advertise = n.cfg.AppConnector
	if n.cfg.PeerRelay != 0 {
		prefs.RelayServerPort = &n.cfg.PeerRelay
		prefs.RelayServerStaticEndpoints = n.cfg.PeerRelayEndpoints
	}
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
	if n.kept {
		n.wg.Go(n.greet)
	}
	if n.cfg.servesPeers() {
		n.wg.Go(n.servePeerAPI)
	}
	return nil
}

// Mode returns the forwarding mode and the reason for it.
func (n *Node) Mode() (Mode, string) { return n.mode, n.modeReason }

// Logout makes control forget the node's key. The node stays listed unless it is ephemeral.
// Only [Node.Close] may be called afterwards.
func (n *Node) Logout(ctx context.Context) error {
	n.state.set(func(s *Status) { s.leaving = true })
	if err := n.lb.Logout(ctx, ipnauth.Self); err != nil {
		return fmt.Errorf("logging out: %w", err)
	}
	return nil
}

// Close ends the node. An ephemeral node logs out, so that control removes it at once.
// Close takes until ctx ends at most, and a few seconds if control does not answer.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	already := n.closed
	n.closed = true
	n.mu.Unlock()
	if already || !n.Started() {
		return nil
	}
	// A logout looks like a request for a credential, or like a removal.
	n.state.set(func(s *Status) { s.leaving = true })
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.lb.Shutdown()
		connectors.Delete(n.lb)
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

// newBackoff returns the pauses between tries to join and to advertise.
func newBackoff() backoff.Backoff {
	return backoff.Backoff{First: time.Second, Max: time.Minute, Share: backoff.Retry}
}
