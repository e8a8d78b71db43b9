// Package tailnettest runs a throwaway tailnet on one machine: a control server, a DERP
// server and a STUN server, for tests and experiments.
//
// Tests bring the nodes: any Tailscale client of the same version that logs in to
// [Tailnet.ControlURL]. The control server is Tailscale's testcontrol behind a front end
// that adds auth keys that expire or are used up, route approval, election of primary
// routes, ephemeral nodes, removal, expiry and device approval of nodes, and Tailscale's
// API for auth keys (see [API]).
//
//	testcontrol stores a node's reports: host information, endpoints
//	this package stores the tailnet's decisions: membership, tags, routes
//
// A test process drives a tailnet in the same process directly, and one in another network
// namespace or container through [Admin]; both implement [Control]. So does [Headscale],
// on machines that have that program.
//
// Neither the servers nor nodes that are started after [Isolate] or with [Env] access the
// outside.
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

// Config configures a [Tailnet]. The zero value is a tailnet on 127.0.0.1 at free
// ports, without keys and without automatic approval.
type Config struct {
	Host        netip.Addr // the address that all servers listen on; 127.0.0.1 by default
	ControlPort int        // 0: a free one
	DERPPort    int        // 0: a free one
	STUNPort    int        // 0: a free one

	Policy Policy
	Keys   []Key
	API    API                // the clients that may create keys
	DNS    *tailcfg.DNSConfig // sent to all nodes; nil: none, and no MagicDNS

	// Domain is the tailnet's domain, such as "tail.test". With it, nodes have full names, and may request
	// certificates for them: SetDNS is called with each record that proves a name. "": neither.
	Domain string
	SetDNS func(name, kind, value string) error

	OwnNode OwnNode

	// OnRegister is called first for every registration. A result that is not nil is the
	// response: with an Error, for instance, for a control server that refuses.
	OnRegister func(*tailcfg.RegisterRequest) *tailcfg.RegisterResponse

	Logger *slog.Logger // transitions of nodes and routes; nil: none
}

// OwnNode selects the map responses that contain the node that they are sent to. Control
// servers differ in that; the first message of a poll always does.
type OwnNode string

const (
	// Always includes the node in all messages, as Tailscale's control does after a
	// change of the node's routes. It is the default.
	Always OwnNode = "always"
	// AfterUpdates behaves like Headscale, versions 0.28 to 0.29 at least: it includes
	// the node in the first message of a poll, and after each update of the node that
	// does not change its routes; messages after changes of routes lack it. The node's
	// routes are those for which it is primary, approved or not. The poll of a removed
	// node stays open and silent.
	AfterUpdates OwnNode = "after-updates"
	// InFirst includes the node only in the first message, the minimum of the protocol.
	InFirst OwnNode = "in-first"
)

// Tailnet is a running control server with its DERP server.
type Tailnet struct {
	onRegister func(*tailcfg.RegisterRequest) *tailcfg.RegisterResponse
	ownNode    OwnNode
	log        *slog.Logger
	url        string
	domain     string // of names; "": names have none
	noiseKey   key.MachinePrivate
	derp       *derpServer
	base       *testcontrol.Server
	http       *http.Server

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu       sync.Mutex // covers the fields below
	closed   bool
	handlers sync.WaitGroup // Add only under mu and while not closed; Wait without mu
	policy   Policy
	keys     map[string]*authKey
	api      api
	nodes    []*member                       // members, oldest first
	standIns map[key.NodePublic]*member      // members without a process, not in nodes
	gone     map[key.NodePublic]bool         // keys of removed nodes, and keys rotated away
	primary  map[netip.Prefix]tailcfg.NodeID // the primary of each route
	reelect  *time.Timer                     // fires at the end of a primary's grace
	version  uint64                          // increases with each change of a field above
	changed  chan struct{}                   // closed, and replaced, when version increases
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
	derp, err := startDERP(cfg.Host, cfg.DERPPort, cfg.STUNPort)
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
		derp:       derp,
		policy:     cfg.Policy,
		keys:       map[string]*authKey{},
		api:        api{API: cfg.API},
		domain:     cfg.Domain,
		gone:       map[key.NodePublic]bool{},
		version:    1, // a first look, after version 0, returns at once
		changed:    make(chan struct{}),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.base = &testcontrol.Server{
		Logf:            logger.Discard,
		ExplicitBaseURL: t.url,
		DERPMap:         derp.derpMap(),
		DNSConfig:       cfg.DNS,
		MagicDNSDomain:  cfg.Domain,
		OnSetDNS: func(r *tailcfg.SetDNSRequest) error {
			if cfg.SetDNS == nil {
				return errors.New("the tailnet has no certificates")
			}
			return cfg.SetDNS(r.Name, r.Type, r.Value)
		},
		// All nodes have to log in. The front end logs in those with a valid key.
		RequireAuth:             true,
		DefaultNodeCapabilities: &tailcfg.NodeCapMap{},
	}
	for _, k := range cfg.Keys {
		t.addKeyLocked(k)
	}
	t.http = &http.Server{Handler: t.track(t.publicHandler()), ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)}
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
	t.derp.close()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing the control server: %w", err)
	}
	return nil
}

// ControlURL implements [Control]. The admin API is below the same URL.
func (t *Tailnet) ControlURL() string { return t.url }

// DERPMap returns the DERP map that nodes get.
func (t *Tailnet) DERPMap() *tailcfg.DERPMap { return t.derp.derpMap() }

// isolation is the environment that keeps a node from accessing Tailscale's servers and the
// gateway of its machine.
var isolation = map[string]string{
	"TS_NO_LOGS_NO_SUPPORT":        "true",
	"TS_DISABLE_PORTMAPPER":        "true",
	"TS_PANIC_IF_HIT_MAIN_CONTROL": "true",
}

// Isolate keeps the nodes of this process from accessing the outside. Call it before the
// first node starts, as in TestMain.
func Isolate() {
	envknob.SetNoLogsNoSupport()
	for name, value := range isolation {
		envknob.Setenv(name, value)
	}
}

// Env returns environment variables that keep a node in another process from accessing the
// outside.
func Env() []string {
	var env []string
	for name, value := range isolation {
		env = append(env, name+"="+value)
	}
	return env
}
