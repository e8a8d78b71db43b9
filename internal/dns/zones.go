package dns

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// maxZones bounds the zones with metrics of their own; the others are "other".
const maxZones = 50

// otherZones is the label of all names outside of the zones that have one.
const otherZones = "other"

// zones is the VPC's private zones.
type zones struct {
	byName map[string]*zone
	other  *zone
}

// zone is a private zone, or all names outside of them. Its metrics are nil until they are set.
type zone struct {
	label   string
	private bool

	queries, hits, failures prometheus.Counter
	duration                prometheus.Observer
}

// newZones returns the zones with these names, in lower case and without a dot at the end.
func newZones(names []string) *zones {
	z := &zones{byName: map[string]*zone{}, other: &zone{label: otherZones}}
	for i, name := range names {
		label := name
		if i >= maxZones {
			label = otherZones
		}
		z.byName[name+"."] = &zone{label: label, private: true}
	}
	return z
}

// parseZones returns the zones of the valid names, and an error with the others.
func parseZones(names []string) (*zones, error) {
	var good, bad []string
	for _, name := range names {
		clean := strings.ToLower(strings.TrimSuffix(name, "."))
		if _, ok := dns.IsDomainName(clean); !ok || clean == "" || clean == otherZones || strings.ContainsAny(clean, `\ `) {
			bad = append(bad, fmt.Sprintf("%q", name))
		} else if !slices.Contains(good, clean) {
			good = append(good, clean)
		}
	}
	slices.Sort(good)
	if bad != nil {
		return newZones(good), fmt.Errorf("setting the private zones: %s: not a domain name; write names such as internal.example.com", strings.Join(bad, ", "))
	}
	return newZones(good), nil
}

// find returns the smallest private zone that contains name, or the one for all others.
func (z *zones) find(name string) *zone {
	if len(z.byName) == 0 {
		return z.other
	}
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if found := z.byName[name[off:]]; found != nil {
			return found
		}
	}
	return z.other
}

// all returns the zones, the other one included.
func (z *zones) all() []*zone {
	out := []*zone{z.other}
	for _, v := range z.byName {
		out = append(out, v)
	}
	return out
}

// answered counts a client's query.
func (z *zone) answered(r result) {
	if z == nil || z.queries == nil {
		return
	}
	z.queries.Inc()
	switch r {
	case hit:
		z.hits.Inc()
	case failed:
		z.failures.Inc()
	default:
	}
}

// asked records a question to the resolver.
func (z *zone) asked(took time.Duration) {
	if z != nil && z.duration != nil {
		z.duration.Observe(took.Seconds())
	}
}
