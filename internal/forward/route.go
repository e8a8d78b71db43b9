package forward

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"github.com/prometheus/client_golang/prometheus"
)

// maxRoutes bounds the routes that have their own series: each has eight.
const maxRoutes = 50

// otherRoutes is the label of flows without such a route: of routes beyond [maxRoutes], and of
// targets that no route contains, such as those of a route that was just withdrawn.
const otherRoutes = "other"

// route holds the counters of one route. A flow looks its route up once, so that counting costs
// the data path only an addition. It keeps the route when the table changes; if the table deletes
// the route's series, later counts of the flow are lost.
type route struct {
	toVPC, toTailnet prometheus.Counter
	failed           map[string]prometheus.Counter // by reason
}

// routeTable maps an address to its route, the longest prefix that contains it.
type routeTable struct {
	bytes, failed *prometheus.CounterVec
	other         *route
	current       atomic.Pointer[bart.Table[*route]]

	// mu serialises changes, and guards series. Look-ups take no lock: they use current, which
	// is replaced as a whole and not changed.
	mu     sync.Mutex
	series map[netip.Prefix]*route // the routes with series, including former ones; at most maxRoutes
}

// newRouteTable returns a table without routes: all targets count as "other".
func newRouteTable() *routeTable {
	t := &routeTable{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_route_bytes_total",
			Help: "Payload bytes forwarded in userspace, by advertised route and direction.",
		}, []string{"route", "direction"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_route_dial_failures_total",
			Help: "Flows that could not be opened towards the target, by advertised route and reason.",
		}, []string{"route", "reason"}),
		series: map[netip.Prefix]*route{},
	}
	t.other = t.create(otherRoutes)
	t.current.Store(new(bart.Table[*route]))
	return t
}

// create returns a route whose counters have a label.
func (t *routeTable) create(label string) *route {
	r := &route{
		toVPC: t.bytes.WithLabelValues(label, "to_vpc"), toTailnet: t.bytes.WithLabelValues(label, "to_tailnet"),
		failed: map[string]prometheus.Counter{},
	}
	for _, reason := range reasons {
		r.failed[reason] = t.failed.WithLabelValues(label, reason)
	}
	return r
}

// set replaces the routes, as [Forwarder.SetRoutes] describes.
func (t *routeTable) set(prefixes []netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		if p = p.Masked(); len(wanted) < maxRoutes {
			wanted[p] = true
		}
	}
	// A prefix without room for series counts as "other", not as its parent prefix, whose
	// numbers would then depend on the order of the list.
	table := new(bart.Table[*route])
	for _, p := range prefixes {
		p = p.Masked()
		r := t.other
		if wanted[p] {
			if r = t.series[p]; r == nil {
				t.makeRoom(wanted)
				r = t.create(p.String())
				t.series[p] = r
			}
		}
		table.Insert(p, r)
	}
	t.current.Store(table)
}

// makeRoom deletes the series of one former route if there is no room for another.
func (t *routeTable) makeRoom(wanted map[netip.Prefix]bool) {
	if len(t.series) < maxRoutes {
		return
	}
	for p := range t.series {
		if wanted[p] {
			continue
		}
		delete(t.series, p)
		label := prometheus.Labels{"route": p.String()}
		t.bytes.DeletePartialMatch(label)
		t.failed.DeletePartialMatch(label)
		return
	}
}

// lookup returns the route of the address that a client sent to.
func (t *routeTable) lookup(dst netip.Addr) *route {
	if r, ok := t.current.Load().Lookup(dst); ok {
		return r
	}
	return t.other
}
