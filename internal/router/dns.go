package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/dns"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/handover"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

const dnsPort = 53

// The bounds of DNS connections are those of the data path's TCP.
const (
	maxDNSConns        = 256
	maxDNSConnsPerPeer = 32
)

// maxDNSQuestions bounds the questions that the VPC's resolver is asked at once, and filesPerQuestion
// the open files of each.
const (
	maxDNSQuestions  = 256
	filesPerQuestion = 4
)

// dnsQuestions returns how many questions the VPC's resolver may be asked at once: at worst, they
// take a sixteenth of the open files. 0 files is an unknown limit.
func dnsQuestions(files int64) int {
	if files == 0 {
		return maxDNSQuestions
	}
	return int(min(max(files/16/filesPerQuestion, 16), maxDNSQuestions))
}

// resolver answers the clients' queries for the VPC's resolver (ROUTER_DNS=on).
type resolver struct {
	server  *dns.Server
	clients dnsClients
	stop    context.CancelFunc
	running context.Context // of the clients' connections; ends with close

	// The newest look-up of routes sets at; nil is unknown.
	at atomic.Pointer[routesource.Resolver]
}

// newResolver returns a resolver that answers no packets yet.
func (r *Router) newResolver(questions int) (*resolver, error) {
	d := &resolver{clients: dnsClients{seen: map[netip.Addr]time.Time{}}}
	var err error
	d.server, err = dns.New(dns.Config{
		Dial: func(ctx context.Context, network string) (net.Conn, error) {
			at := d.at.Load()
			if at == nil {
				return nil, errors.New("the VPC's resolver is unknown")
			}
			return r.forward.DialConn(ctx, network, netip.AddrPortFrom(at.Addr, dnsPort))
		},
		Site:        r.cfg.Routes.Site,
		RebindGuard: r.cfg.DNSRebindGuard,
		Listener:    r.deny.Listens,
		Peer:        r.node.NodeAddress,
		Limits:      dns.Limits{InFlight: questions, Connections: maxDNSConns, PeerConnections: maxDNSConnsPerPeer},
		Registerer:  r.registry,
		Logger:      r.log,
	})
	if err != nil {
		return nil, err
	}
	d.running, d.stop = context.WithCancel(context.Background())
	return d, nil
}

// serveDNS has the data path answer for the resolver of the newest look-up. advertise are the routes of
// that look-up, which are advertised afterwards.
func (r *Router) serveDNS(advertise []netip.Prefix) {
	d := r.resolver
	if d == nil {
		return
	}
	d.server.SetRoutes(vpcPrefixes(advertise))
	before := d.at.Load()
	now, zones := r.lookUps.dns()
	if err := d.server.SetZones(zones.Names()); err != nil {
		r.log.Warn("zones without metrics of their own", "err", err)
	}
	d.at.Store(now)
	switch {
	case now == nil:
		r.forward.SetResponder(nil)
	case before == nil || before.Through != now.Through:
		r.forward.SetResponder(&forward.Responder{
			Addr: netip.AddrPortFrom(now.Through, dnsPort),
			Datagram: func(client netip.AddrPort, query []byte, answer func([]byte)) {
				d.clients.note(client.Addr(), time.Now())
				d.server.Handle(client, false, query, answer)
			},
			Stream: func(client netip.AddrPort, conn net.Conn) {
				d.clients.note(client.Addr(), time.Now())
				d.server.ServeTCP(d.running, conn, client)
			},
		})
		r.log.Info("answering DNS queries for the VPC's resolver", "resolver", now.Addr.String(), "nameserver", now.Through.String(), "source", now.Source)
	}
}

// close ends the clients' connections, and the questions to the VPC's resolver. The data path has
// closed, so that no client gets a failure of this end.
func (d *resolver) close() {
	if d != nil {
		d.stop()
		d.server.Close()
	}
}

// vpcPrefixes returns advertised prefixes without 4via6.
func vpcPrefixes(advertised []netip.Prefix) []netip.Prefix {
	out := slices.Clone(advertised)
	for i, p := range out {
		if _, v4, ok := routes.Unvia(p.Addr()); ok && p.Bits() >= 96 {
			out[i] = netip.PrefixFrom(v4, p.Bits()-96)
		}
	}
	return out
}

// maxDNSClients bounds the clients that are introduced to other routers because of their queries,
// and dnsClientTime is how long after its last query one is.
const (
	maxDNSClients = 1024
	dnsClientTime = 5 * time.Minute
)

// dnsClients are the clients that have sent queries lately. They may have no flow.
type dnsClients struct {
	mu   sync.Mutex // covers seen
	seen map[netip.Addr]time.Time
}

// note records a query. If there are too many clients, it forgets them all: those that go on are known
// again with their next query.
func (c *dnsClients) note(client netip.Addr, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.seen[client]; !known && len(c.seen) >= maxDNSClients {
		clear(c.seen)
	}
	c.seen[client] = now
}

// recent returns the clients with a query within dnsClientTime.
func (c *dnsClients) recent(now time.Time) []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.seen, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > dnsClientTime })
	return slices.Collect(maps.Keys(c.seen))
}

// dnsClients returns the clients of the resolver as those of a hand-over.
func (r *Router) dnsClients() (list []handover.Client) {
	d := r.resolver
	if d == nil {
		return nil
	}
	at := d.at.Load()
	if at == nil {
		return nil
	}
	for _, a := range d.clients.recent(time.Now()) {
		list = append(list, handover.Client{Addr: a, Target: at.Through})
	}
	return list
}

// dnsProblem returns the reason why clients have no DNS answers, or nil. It does not make the router
// unready: another router's resolver would be the same.
func (r *Router) dnsProblem() *problem.Problem {
	d := r.resolver
	if d == nil {
		return nil
	}
	if _, _, found, _ := r.lookUps.results(); found.IsZero() {
		return nil
	}
	at := d.at.Load()
	if at == nil {
		return &problem.Problem{
			Code: problem.DNSUnavailable, Message: "ROUTER_DNS is on, but the VPC's resolver is unknown: task metadata has no name server, and ROUTER_ROUTES does not look up the VPC",
			Fix: "add vpc to ROUTER_ROUTES, or use the network mode awsvpc",
		}
	}
	if !at.Route.IsValid() {
		return &problem.Problem{
			Code: problem.DNSUnavailable, Message: fmt.Sprintf("ROUTER_DNS is on, but the VPC's resolver %s (%s) is in no advertised route", at.Addr, at.Source),
			Fix: fmt.Sprintf("take it out of ROUTER_EXCLUDE_ROUTES, or add %s/%d to ROUTER_ROUTES", at.Addr, at.Addr.BitLen()),
		}
	}
	if err := d.server.Failing(); err != nil {
		return &problem.Problem{
			Code: problem.DNSFailing, Message: fmt.Sprintf("the VPC's resolver %s (%s) does not answer: %v; clients have answers from the cache, or SERVFAIL", at.Addr, at.Source, err),
			Fix: "check the VPC's enableDnsSupport, the security group's outbound UDP and TCP 53, and the load in router_dns_upstream_packets_per_second",
		}
	}
	return nil
}

// describeResolver returns the DNS settings for /status, or nil while the VPC's resolver is unknown.
func (r *Router) describeResolver() *ops.DNS {
	at, zones := r.lookUps.dns()
	d := describeDNS(at, zones, r.cfg.DNS, r.cfg.Routes.Site)
	if p := r.dnsProblem(); p != nil && d != nil {
		d.Problem = p.Message
	}
	return d
}

// filesOfDNS returns the number of open files that questions need at worst.
func (r *Router) filesOfDNS() int {
	if !r.cfg.DNS {
		return 0
	}
	return filesPerQuestion * dnsQuestions(limits.MaxOpenFiles())
}
