package router

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/config"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/routes"
)

// served has the ports of the node's own tailnet addresses that lead to other targets (ROUTER_SERVE). The
// data path forwards them as flows.
type served struct {
	ports map[uint16]*servedPort // 0 is for all other ports, of TCP and UDP
	owns  func(netip.Addr) bool  // reports whether an address is the node's own
	front netip.AddrPort         // for TLS and HTTP; set before the node starts
	// may returns an error if a target must not be reached from the tailnet.
	may func(netip.AddrPort) error
	log *slog.Logger
}

// servedPort is a target, and the address that its name has now.
type servedPort struct {
	element string // of ROUTER_SERVE
	host    string
	port    uint16 // 0: that of the flow
	kind    config.ServeKind
	addr    atomic.Pointer[netip.AddrPort] // nil while it is unknown
	failed  bool                           // the last look-up failed, which was logged; for follow only
}

// local reports whether the target is configured to be the task itself. The owner of any other name must
// not lead clients to the programs that listen there.
func (p *servedPort) local() bool {
	a, err := netip.ParseAddr(p.host)
	return p.host == "localhost" || err == nil && a.IsLoopback()
}

// serveRefresh is the time between two look-ups of the names.
const serveRefresh = 30 * time.Second

func newServed(ports []config.Serve, owns func(netip.Addr) bool, may func(netip.AddrPort) error, log *slog.Logger) *served {
	s := &served{ports: map[uint16]*servedPort{}, owns: owns, may: may, log: log}
	for _, p := range ports {
		s.ports[p.Port] = &servedPort{element: p.String(), host: p.Target, kind: p.Kind}
		if host, service, err := net.SplitHostPort(p.Target); err == nil && p.Port != 0 {
			port, _ := strconv.ParseUint(service, 10, 16) // the configuration has checked it
			s.ports[p.Port].host, s.ports[p.Port].port = host, uint16(port)
		}
	}
	return s
}

// lookUp implements [forward.Config.Served].
func (s *served) lookUp(protocol forward.Protocol, target netip.AddrPort) (to netip.AddrPort, ok bool) {
	p := s.ports[target.Port()]
	if p == nil || protocol != forward.TCP {
		p = s.ports[0]
	}
	if p == nil || !s.owns(target.Addr()) {
		return netip.AddrPort{}, false
	}
	a := p.addr.Load()
	if a == nil {
		return netip.AddrPort{}, true
	}
	to = *a
	if p.port == 0 {
		to = netip.AddrPortFrom(a.Addr(), target.Port())
	}
	if s.may(to) != nil { // also a listener that this process has opened since
		return netip.AddrPort{}, true
	}
	return to, true
}

// follow keeps the addresses of the targets until ctx ends.
func (s *served) follow(ctx context.Context) error {
	for len(s.ports) > 0 {
		for _, p := range s.ports {
			s.refresh(ctx, p)
		}
		if !backoff.Sleep(ctx, serveRefresh) {
			break
		}
	}
	return nil
}

// refresh looks up the address of one target. It keeps the last one if the look-up fails, or if the
// name still has it.
func (s *served) refresh(ctx context.Context, p *servedPort) {
	looking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(looking, "ip", p.host)
	if ctx.Err() != nil {
		return
	}
	var found []netip.AddrPort
	for _, a := range addrs {
		to := netip.AddrPortFrom(a.Unmap(), p.port)
		refused := s.may(to)
		if refused == nil && to.Addr().IsLoopback() && !p.local() {
			refused = fmt.Errorf("the name leads to %s", to.Addr())
		}
		if refused != nil {
			err = refused
			continue
		}
		found = append(found, to)
	}
	if len(found) == 0 {
		if !p.failed {
			s.log.Warn("finding the target of a served port failed", "served", p.element, "err", err, "fix", "correct ROUTER_SERVE, or the name")
		}
		p.failed = true
		return
	}
	p.failed = false
	if last := p.addr.Load(); last != nil && slices.Contains(found, *last) {
		return
	}
	// Go sorts addresses for its own choice, and localhost may begin with ::1, where few programs listen.
	slices.SortStableFunc(found, func(a, b netip.AddrPort) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	p.addr.Store(&found[0])
	s.log.Info("port served on the tailnet", "served", p.element, "address", found[0].Addr().String())
}

// mayServe returns an error if a target must not be reached from the tailnet: the deny list applies,
// except for loopback addresses without a listener of the router.
func (r *Router) mayServe(to netip.AddrPort) error {
	switch reason, denied := routes.Denied(to.Addr()); {
	case to.Addr().IsLoopback() && r.deny.HasPort(to.Port()):
		return fmt.Errorf("%s is a listener of the router", to)
	case to.Addr().IsLoopback():
		return nil
	case denied:
		return fmt.Errorf("%s must not be reached from the tailnet (%s)", to, reason)
	case r.deny.Denied(to):
		return fmt.Errorf("%s is a listener of a router", to)
	}
	return nil
}

// serveGrants returns the part of the policy that lets members of the tailnet reach the served ports
// of routers with a configuration, or nil if there are none.
func serveGrants(cfg config.Config) *Grants {
	if len(cfg.Serve) == 0 {
		return nil
	}
	g := Grant{Src: []string{"autogroup:member"}, Dst: cfg.Credential.Tags}
	for _, s := range cfg.Serve {
		if s.Port == 0 {
			g.IP = []string{"*"}
			break
		}
		g.IP = append(g.IP, "tcp:"+strconv.Itoa(int(s.Port)))
	}
	return &Grants{Grants: []Grant{g}}
}
