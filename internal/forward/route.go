package forward

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"github.com/prometheus/client_golang/prometheus"
)

// maxRoutes bounds how many routes have series of their own: each has eight.
const maxRoutes = 50

// otherRoutes is the label of what has none: routes beyond [maxRoutes], and
// targets that no route holds, as when one was just withdrawn.
const otherRoutes = "other"

// route is what is counted of one. A flow looks its route up once, so that the
// data path pays for an addition only.
type route struct {
	toVPC, toTailnet prometheus.Counter
	failed           map[string]prometheus.Counter // by reason
}

// routeTable finds the route of an address: the longest prefix that holds it.
type routeTable struct {
	bytes, failed *prometheus.CounterVec
	other         *route
	current       atomic.Pointer[bart.Table[*route]]

	mu     sync.Mutex
	series map[netip.Prefix]*route // those with series, withdrawn ones too
}

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

// SetRoutes tells the routes that flows are counted by: as advertised, 4via6 not
// undone. Of more than 50 the rest are counted as "other". A route that is gone
// keeps its series until another needs the place.
func (f *Forwarder) SetRoutes(prefixes []netip.Prefix) { f.routes.set(prefixes) }

func (t *routeTable) set(prefixes []netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		if p = p.Masked(); len(wanted) < maxRoutes {
			wanted[p] = true
		}
	}
	// A prefix that is wanted but has no place left stays "other": not its
	// parent's, whose numbers would change with the order of a list.
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

// makeRoom takes the series of a route that is gone, where there are many.
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

// of is the route of an address that a client sent to.
func (t *routeTable) lookup(dst netip.Addr) *route {
	if r, ok := t.current.Load().Lookup(dst); ok {
		return r
	}
	return t.other
}
