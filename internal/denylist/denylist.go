// Package denylist decides which targets the tailnet must never reach through the
// router, whatever routes are advertised: the ranges of [routes.Denied], and the
// listeners of this router and of its peer routers.
//
// It fails closed: while the addresses of this host are unknown, every target on a
// listener's port is denied.
package denylist

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/routes"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// readEvery is the interval between two reads of the host's addresses where no
	// change was reported; retryEvery the interval while they are unknown.
	readEvery  = 10 * time.Second
	retryEvery = time.Second
	// eventPause separates two reads that changes caused: a host that starts many
	// containers reports hundreds of changes a second, and a read costs some 0.1 ms.
	eventPause = 50 * time.Millisecond
	// maxPeerAddrs bounds the addresses of peer routers. With more, the list is
	// incomplete and so denies every target on a listener's port. A peer router has
	// ten at most, so this is room for hundreds.
	maxPeerAddrs = 4096
)

// Config describes a [List]. The zero value of a field means the default that its
// comment gives.
type Config struct {
	// Listeners are the configured addresses, host:port. Their ports count for this
	// router before it opens them, and for its peer routers, which are taken to have
	// the same settings. "" and port 0 are skipped.
	Listeners []string
	// Ports are further configured ports, such as WireGuard's. 0 is skipped.
	Ports []uint16
	// AllPorts denies all ports of the addresses of peer routers, which lead into the tailnet.
	AllPorts bool
	// Addrs reads the addresses of this host. Default: [net.InterfaceAddrs].
	Addrs func() ([]net.Addr, error)
	// Changed is called by [List.Run] after the list has changed: targets of open flows
	// may have become denied. Default: nothing is called.
	Changed func()
	// Registerer registers the metrics. Default: they are not registered.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// List is the deny list. Create it with [New]; its methods may be called from any
// goroutine.
type List struct {
	cfg      Config
	failures prometheus.Counter
	current  atomic.Pointer[table]
	stale    chan struct{} // wakes Run: the host's addresses changed
	changed  chan struct{} // wakes Run: Changed is due

	mu       sync.Mutex // guards the fields below, from which current is built
	ports    []uint16
	own      map[netip.Addr]struct{}
	ownKnown bool // own has the host's present addresses
	warned   bool // the warning about unknown addresses was logged
	peers    []netip.Addr
}

// table is one immutable state of the list, so that the data path needs no lock.
type table struct {
	ports    []uint16 // few: a scan is faster than a map
	addrs    map[netip.Addr]struct{}
	complete bool
	// With Config.AllPorts: the addresses of peer routers, unless these are too many: then allPorts denies all targets.
	peers    map[netip.Addr]struct{}
	allPorts bool
}

// New returns a List and reads the host's addresses. If that fails, the list is incomplete
// until [List.Run] succeeds.
func New(cfg Config) (*List, error) {
	if cfg.Addrs == nil {
		cfg.Addrs = net.InterfaceAddrs
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	l := &List{
		cfg: cfg, stale: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_own_address_read_failures_total",
			Help: "Failed reads of this host's addresses. Until one succeeds, targets on the ports of the router's listeners are denied, whatever their address.",
		}),
	}
	incomplete := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "router_deny_list_incomplete",
		Help: "1 while addresses of the router's listeners are unknown, and every target on their ports is denied.",
	}, func() float64 {
		if l.current.Load().complete {
			return 0
		}
		return 1
	})
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{l.failures, incomplete} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("registering deny list metrics: %w", err)
			}
		}
	}
	ports := slices.Clone(cfg.Ports)
	for _, address := range cfg.Listeners {
		if address == "" {
			continue
		}
		_, service, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("reading listener address %q: %w", address, err)
		}
		port, err := net.LookupPort("tcp", service)
		if err != nil {
			return nil, fmt.Errorf("reading the port of listener address %q: %w", address, err)
		}
		ports = append(ports, uint16(port))
	}
	l.current.Store(&table{})
	l.addPorts(ports)
	l.read(false)
	return l, nil
}

// Denied reports whether target must never be reached. It looks inside 4via6, IPv4-mapped and
// NAT64 addresses. It is called for every packet: it neither blocks nor allocates, and makes no
// system call.
//
// A port is denied for TCP and UDP alike. For a packet without ports, such as ICMP echo, target
// has port 0, so that it may reach the addresses of routers.
func (l *List) Denied(target netip.AddrPort) bool {
	addr := routes.Inner(target.Addr())
	if _, denied := routes.Denied(addr); denied {
		return true
	}
	t := l.current.Load()
	if target.Port() == 0 {
		return false
	}
	if _, peer := t.peers[addr]; peer || t.allPorts {
		return true
	}
	if !slices.Contains(t.ports, target.Port()) {
		return false
	}
	if !t.complete {
		return true
	}
	_, listens := t.addrs[addr]
	return listens
}

// HasPort reports whether a listener of this process or of a peer router has a port.
func (l *List) HasPort(port uint16) bool { return slices.Contains(l.current.Load().ports, port) }

// Ports returns the ports of the listeners. The caller must not change them.
func (l *List) Ports() []uint16 { return l.current.Load().ports }

// Listens reports whether a is an address of this router or of a peer router, or may be one while
// they are unknown.
func (l *List) Listens(a netip.Addr) bool {
	t := l.current.Load()
	_, listens := t.addrs[routes.Inner(a)]
	return listens || !t.complete
}

// Opened adds a listener of this process; call it as soon as the listener is bound. A port
// stays on the list after the listener closes: a connection to it may still be open.
func (l *List) Opened(addr net.Addr) {
	switch a := addr.(type) {
	case *net.TCPAddr:
		l.addPorts([]uint16{uint16(a.Port)})
	case *net.UDPAddr:
		l.addPorts([]uint16{uint16(a.Port)})
	}
}

// OpenedPort adds the port of a listener whose address is unknown; 0 is skipped.
func (l *List) OpenedPort(port uint16) { l.addPorts([]uint16{port}) }

func (l *List) addPorts(ports []uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	added := false
	for _, p := range ports {
		if p != 0 && !slices.Contains(l.ports, p) {
			l.ports = append(slices.Clone(l.ports), p)
			added = true
		}
	}
	if added {
		l.buildLocked()
	}
}

// SetPeers replaces the addresses of peer routers.
func (l *List) SetPeers(addrs []netip.Addr) {
	peers := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		peers = append(peers, routes.Inner(a))
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	peers = slices.Compact(peers)
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(peers, l.peers) {
		return
	}
	if was := len(l.peers) > maxPeerAddrs; !was && len(peers) > maxPeerAddrs {
		l.cfg.Logger.Error("peer routers have too many addresses: targets on the ports of the router's listeners are denied, whatever their address",
			"addresses", len(peers), "limit", maxPeerAddrs, "fix", "give the tag of this router to routers only")
	}
	l.peers = peers
	l.buildLocked()
}

// buildLocked publishes the current list. The caller holds l.mu.
func (l *List) buildLocked() {
	t := &table{ports: l.ports, complete: l.ownKnown && len(l.peers) <= maxPeerAddrs}
	if t.complete {
		t.addrs = make(map[netip.Addr]struct{}, len(l.own)+len(l.peers))
		maps.Copy(t.addrs, l.own)
		for _, a := range l.peers {
			t.addrs[a] = struct{}{}
		}
	}
	if l.cfg.AllPorts {
		t.allPorts = len(l.peers) > maxPeerAddrs
		t.peers = make(map[netip.Addr]struct{}, len(l.peers))
		for _, a := range l.peers {
			t.peers[a] = struct{}{}
		}
	}
	l.current.Store(t)
	wake(l.changed)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// read reads the host's addresses. If that fails, the previous addresses stay in force provided
// that no change was reported since they were read (unchanged).
func (l *List) read(unchanged bool) {
	addrs, err := l.cfg.Addrs()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures.Inc()
		if l.ownKnown && unchanged {
			return
		}
		if !l.warned {
			l.warned = true
			l.cfg.Logger.Warn("reading this host's addresses failed: until it succeeds, targets on the ports of the router's listeners are denied, whatever their address",
				"err", err, "ports", l.ports)
		}
		if l.ownKnown {
			l.ownKnown = false
			l.buildLocked()
		}
		return
	}
	own := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		if a, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(a.IP); ok {
				own[routes.Inner(addr)] = struct{}{}
			}
		}
	}
	if l.warned {
		l.warned = false
		l.cfg.Logger.Info("this host's addresses are known again", "addresses", len(own))
	}
	if l.ownKnown && maps.Equal(own, l.own) {
		return
	}
	l.own, l.ownKnown = own, true
	l.buildLocked()
}

// Run keeps the list up to date until ctx ends.
func (l *List) Run(ctx context.Context) { l.run(ctx, watch) }

func (l *List) run(ctx context.Context, watch func(ctx context.Context, changed func()) error) {
	ctx, cancel := context.WithCancel(ctx)
	var watching atomic.Bool
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		err := watch(ctx, func() { watching.Store(true); wake(l.stale) })
		watching.Store(false)
		if err != nil && ctx.Err() == nil {
			l.cfg.Logger.Info("changes of this host's addresses are not reported; polling", "interval", readEvery.String(), "err", err)
		}
	}()
	defer func() { cancel(); <-watched }()
	for {
		wait := readEvery
		if !l.current.Load().complete {
			wait = retryEvery
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			l.read(watching.Load())
		case <-l.stale:
			l.read(false)
			backoff.Sleep(ctx, eventPause)
		case <-l.changed:
			l.cfg.Changed()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}
