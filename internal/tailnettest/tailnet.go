// Package tailnettest is a throwaway tailnet on one machine: a control server,
// a DERP relay and a STUN server, for tests and for trying things out.
//
// Nodes are brought by the test: any Tailscale client of the same version
// that logs in to [Tailnet.ControlURL]. The control server is Tailscale's own
// testcontrol with what it lacks in front of it: auth keys that expire or are
// used up, route approval, election of primary routes, ephemeral nodes,
// removal, expiry and device approval of nodes, and Tailscale's API for auth
// keys: see [API].
//
//	testcontrol  keeps what a node says of itself: host information, endpoints
//	this package keeps what the tailnet decided: membership, tags, routes
//
// A test process drives a tailnet of its own directly, and one in another
// network namespace or container through [Admin]; both are a [Control]. So is
// [Headscale], versions 0.26 to 0.28, where a machine has that program; its
// comment says what is known of it and from where.
//
// Nothing here, and no node that is started after [Isolate] or with [Env],
// talks to the outside.
package tailnettest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"tailscale.com/envknob"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// Config of a [Tailnet]. The zero value is a tailnet on 127.0.0.1 at free
// ports, without keys, that approves nothing by itself.
type Config struct {
	Host        netip.Addr // where all servers listen; 127.0.0.1 by default
	ControlPort int        // 0: a free one
	DERPPort    int        // 0: a free one
	STUNPort    int        // 0: a free one

	Policy Policy
	Keys   []Key
	API    API                // who may ask for keys
	DNS    *tailcfg.DNSConfig // sent to all nodes; nil: none, and no MagicDNS

	OwnNode OwnNode

	// OnRegister sees every registration first and may answer it: with an
	// Error for a control server that refuses, say. A nil answer lets it pass.
	OnRegister func(*tailcfg.RegisterRequest) *tailcfg.RegisterResponse

	Logger *slog.Logger // transitions of nodes and routes; nil: none
}

// OwnNode is when a map response contains the node that it is for. Control
// servers differ, and only the first message of a poll is sure to.
type OwnNode string

const (
	// Always is the default, and how Tailscale's control informs a node of a
	// change of its routes.
	Always OwnNode = "always"
	// AfterUpdates is how Headscale does it, versions 0.28 to 0.29 at least: beside the
	// first message of a poll, after each update of the node that leaves its routes
	// as they were. What follows from a change of routes comes without it. Of the
	// node's routes it has those that it is primary for, approved or not. The poll of
	// a removed node stays open and silent.
	AfterUpdates OwnNode = "after-updates"
	// InFirst is the least that the protocol allows for.
	InFirst OwnNode = "in-first"
)

// Tailnet is a running control server with its relay.
type Tailnet struct {
	onRegister func(*tailcfg.RegisterRequest) *tailcfg.RegisterResponse
	ownNode    OwnNode
	log        *slog.Logger
	url        string
	noiseKey   key.MachinePrivate
	relay      *relay
	base       *testcontrol.Server
	http       *http.Server

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu       sync.Mutex
	closed   bool
	handlers sync.WaitGroup // Add under mu and while not closed
	policy   Policy
	keys     map[string]*authKey
	api      api
	nodes    []*member                       // members, oldest first
	standIns map[key.NodePublic]*member      // that nobody plays, beside nodes
	gone     map[key.NodePublic]bool         // keys of removed nodes, and keys rotated away
	primary  map[netip.Prefix]tailcfg.NodeID // who serves a route
	reelect  *time.Timer                     // at the end of a primary's grace
	version  uint64                          // of all of the above
	changed  chan struct{}                   // closed when version goes up
}

// Start runs a tailnet until Close.
func Start(cfg Config) (*Tailnet, error) {
	if !cfg.Host.IsValid() {
		cfg.Host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Policy.check(); err != nil {
		return nil, err
	}
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.Host, uint16(cfg.ControlPort))))
	if err != nil {
		return nil, fmt.Errorf("listening for control: %w", err)
	}
	relay, err := startRelay(cfg.Host, cfg.DERPPort, cfg.STUNPort)
	if err != nil {
		ln.Close()
		return nil, err
	}
	t := &Tailnet{
		onRegister: cfg.OnRegister,
		ownNode:    cmp.Or(cfg.OwnNode, Always),
		log:        cfg.Logger,
		url:        "http://" + ln.Addr().String(),
		noiseKey:   key.NewMachine(),
		relay:      relay,
		policy:     cfg.Policy,
		keys:       map[string]*authKey{},
		api:        api{API: cfg.API},
		gone:       map[key.NodePublic]bool{},
		version:    1, // a first look, after version 0, returns at once
		changed:    make(chan struct{}),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.base = &testcontrol.Server{
		Logf:            logger.Discard,
		ExplicitBaseURL: t.url,
		DERPMap:         relay.derpMap(),
		DNSConfig:       cfg.DNS,
		// Everyone has to log in; the front does so for those with a good key.
		RequireAuth:             true,
		DefaultNodeCapabilities: &tailcfg.NodeCapMap{},
	}
	for _, k := range cfg.Keys {
		t.addKeyLocked(k)
	}
	t.http = &http.Server{Handler: t.track(t.outer()), ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)}
	go t.http.Serve(ln)
	return t, nil
}

// Close ends all connections and servers and waits for them.
func (t *Tailnet) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	if t.reelect != nil {
		t.reelect.Stop()
	}
	t.mu.Unlock()

	t.stop()
	err := t.http.Close()
	t.handlers.Wait()
	t.relay.close()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing the control server: %w", err)
	}
	return nil
}

// ControlURL implements [Control]. The admin API is below the same URL.
func (t *Tailnet) ControlURL() string { return t.url }

// DERPMap is what nodes are told of the relay.
func (t *Tailnet) DERPMap() *tailcfg.DERPMap { return t.relay.derpMap() }

// What keeps a node from talking to Tailscale's servers and to the gateway of
// the machine it runs on.
var isolation = map[string]string{
	"TS_NO_LOGS_NO_SUPPORT":        "true",
	"TS_DISABLE_PORTMAPPER":        "true",
	"TS_PANIC_IF_HIT_MAIN_CONTROL": "true",
}

// Isolate keeps the nodes of this process from talking to the outside. Call
// it before the first one starts; TestMain is a good place.
func Isolate() {
	envknob.SetNoLogsNoSupport()
	for name, value := range isolation {
		envknob.Setenv(name, value)
	}
}

// Env is what a node in another process needs in its environment to not talk
// to the outside.
func Env() []string {
	var env []string
	for name, value := range isolation {
		env = append(env, name+"="+value)
	}
	return env
}
