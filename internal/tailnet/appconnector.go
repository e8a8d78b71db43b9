package tailnet

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/routes"

	"golang.org/x/net/dns/dnsmessage"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/tailcfg"
	"tailscale.com/types/appctype"
)

// The bounds of an app connector.
const (
	// MaxLearned bounds the routes of an app connector. A node that advertises far more makes the
	// netmap of each client large.
	MaxLearned = 1000
	// maxDomains bounds the policy's domains, maxAliases the CNAMEs from one to an address, and
	// maxAnswer the addresses of an answer.
	maxDomains = 4096
	maxAliases = 16
	maxAnswer  = 256
	// learnedFor is the time after its last answer for which an address keeps its place when there
	// are too many. Connections may still use it, and each change is a new netmap for all clients.
	learnedFor = time.Hour
)

// appConnector is the state of an app connector: the domains and routes of the policy for it, and
// the addresses in DNS answers for these domains.
//
// The engine has an app connector too, which reads the same policy and reports to control that this
// node is one. It is given no answers: it would advertise any address in them, and write the routes in
// competition with announce.
type appConnector struct {
	exclude []netip.Prefix // is never changed

	mu        sync.Mutex // covers the fields below
	domains   []string   // lower case; "*.example.com" has all names below example.com
	routes    []netip.Prefix
	addresses map[netip.Addr]*learnedAddress // at most MaxLearned
	refused   time.Time                      // when an address last found no place
}

// learnedAddress is an address that an answer had.
type learnedAddress struct {
	name   string // that the address was asked for
	domain string // the policy's, which has name
	seen   time.Time
}

// setPolicy takes the policy from this node's record, and reports whether it changed the routes.
// Addresses of domains that the policy no longer has are forgotten.
func (a *appConnector) setPolicy(self *tailcfg.Node) (changed bool, err error) {
	attrs, err := tailcfg.UnmarshalNodeCapJSON[appctype.AppConnectorAttr](self.CapMap, AppConnectorCapability)
	if err != nil {
		return false, err
	}
	var domains []string
	var prefixes []netip.Prefix
	for _, attr := range attrs {
		if slices.ContainsFunc(attr.Connectors, func(tag string) bool { return tag == "*" || slices.Contains(self.Tags, tag) }) {
			for _, d := range attr.Domains {
				domains = append(domains, canonicalName(d))
			}
			prefixes = append(prefixes, attr.Routes...)
		}
	}
	slices.Sort(domains)
	domains = slices.Compact(domains)
	domains = domains[:min(len(domains), maxDomains)]
	prefixes = a.allowed(prefixes)
	prefixes = prefixes[:min(len(prefixes), MaxLearned)]

	a.mu.Lock()
	defer a.mu.Unlock()
	changed = !slices.Equal(prefixes, a.routes)
	a.domains, a.routes = domains, prefixes
	for addr, l := range a.addresses {
		if a.domainOf(l.name) == "" {
			delete(a.addresses, addr)
			changed = true
		}
	}
	return changed, nil
}

// allowed returns the routes that may be advertised, as for those of the VPC.
func (a *appConnector) allowed(prefixes []netip.Prefix) []netip.Prefix {
	refuse := func(p netip.Prefix) bool { return routes.Refuse(p) != nil }
	prefixes = slices.DeleteFunc(slices.Clone(prefixes), refuse)
	return slices.DeleteFunc(routes.Trim(prefixes, a.exclude), refuse)
}

// domainOf returns the policy's domain that has a canonical name; "" is none. It is called with the lock.
func (a *appConnector) domainOf(name string) string {
	for _, d := range a.domains {
		if parent, wildcard := strings.CutPrefix(d, "*"); d == name || wildcard && strings.HasPrefix(parent, ".") && strings.HasSuffix(name, parent) {
			return d
		}
	}
	return ""
}

func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// learn takes a DNS answer, and reports whether it changed the routes.
func (a *appConnector) learn(answer []byte, now time.Time) (changed bool, err error) {
	records, err := readAnswer(answer)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range records.addresses {
		name, domain := r.name, ""
		for range maxAliases {
			if domain = a.domainOf(name); domain != "" || records.alias[name] == "" {
				break
			}
			name = records.alias[name]
		}
		if domain != "" && a.add(r.addr, learnedAddress{name, domain, now}) {
			changed = true
		}
	}
	return changed, nil
}

// add adds an address, and reports whether it is new. It is called with the lock.
func (a *appConnector) add(addr netip.Addr, l learnedAddress) bool {
	if known := a.addresses[addr]; known != nil {
		known.seen = l.seen
		return false
	}
	if len(a.allowed([]netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())})) == 0 {
		return false
	}
	if len(a.addresses) >= MaxLearned && !a.evict(l) {
		a.refused = l.seen
		return false
	}
	if a.addresses == nil {
		a.addresses = map[netip.Addr]*learnedAddress{}
	}
	a.addresses[addr] = &l
	return true
}

// evict makes room for an address of a domain, and reports whether it could: it takes the address with
// the oldest answer from the domain that has the most, so that one domain cannot take the places of
// the others. It is called with the lock.
func (a *appConnector) evict(l learnedAddress) bool {
	count := map[string]int{l.domain: 1}
	for _, known := range a.addresses {
		count[known.domain]++
	}
	var oldest netip.Addr
	for addr, known := range a.addresses {
		old := a.addresses[oldest]
		if old == nil || cmp.Or(cmp.Compare(count[old.domain], count[known.domain]), known.seen.Compare(old.seen)) < 0 {
			oldest = addr
		}
	}
	if old := a.addresses[oldest]; old.domain == l.domain && l.seen.Sub(old.seen) < learnedFor {
		return false
	}
	delete(a.addresses, oldest)
	return true
}

// list returns the routes next to the node's own ones, sorted: those of the policy and of addresses
// that are in none of these.
func (a *appConnector) list(own []netip.Prefix) []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	covered := func(list []netip.Prefix, p netip.Prefix) bool {
		return slices.ContainsFunc(list, func(q netip.Prefix) bool { return routes.Covers(q, p) })
	}
	var policy, learned []netip.Prefix
	for _, p := range a.routes {
		if !covered(own, p) {
			policy = append(policy, p)
		}
	}
	for addr := range a.addresses {
		if p := netip.PrefixFrom(addr, addr.BitLen()); !covered(own, p) && !covered(policy, p) {
			learned = append(learned, p)
		}
	}
	slices.SortFunc(learned, netip.Prefix.Compare)
	out := slices.Concat(policy, learned)
	out = out[:min(len(out), MaxLearned)]
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// full reports whether an address found no place within learnedFor.
func (a *appConnector) full(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.refused.IsZero() && now.Sub(a.refused) < learnedFor
}

// byName returns the addresses of each name.
func (a *appConnector) byName() map[string][]netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string][]netip.Addr{}
	for _, d := range a.domains {
		if !strings.HasPrefix(d, "*") {
			out[d] = nil
		}
	}
	for addr, l := range a.addresses {
		out[l.name] = append(out[l.name], addr)
	}
	for _, list := range out {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	return out
}

// ConnectorFull reports whether the app connector lately had no room for an address of its domains.
func (n *Node) ConnectorFull() bool { return n.connector.full(time.Now()) }

// records are those of an answer that an app connector reads. Names are canonical.
type records struct {
	alias     map[string]string // the name that a CNAME leads from, by the name that it leads to
	addresses []addressRecord
}

type addressRecord struct {
	name string
	addr netip.Addr
}

// readAnswer reads the addresses and CNAMEs of a DNS answer.
func readAnswer(answer []byte) (records, error) {
	out := records{alias: map[string]string{}}
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil {
		return out, err
	}
	if err := p.SkipAllQuestions(); err != nil {
		return out, err
	}
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) || len(out.addresses) == maxAnswer {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		name := canonicalName(h.Name.String())
		switch {
		case h.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeA:
			var r dnsmessage.AResource
			if r, err = p.AResource(); err == nil {
				out.addresses = append(out.addresses, addressRecord{name, netip.AddrFrom4(r.A)})
			}
		case h.Type == dnsmessage.TypeAAAA:
			var r dnsmessage.AAAAResource
			if r, err = p.AAAAResource(); err == nil {
				out.addresses = append(out.addresses, addressRecord{name, netip.AddrFrom16(r.AAAA)})
			}
		case h.Type == dnsmessage.TypeCNAME:
			var r dnsmessage.CNAMEResource
			if r, err = p.CNAMEResource(); err == nil {
				out.alias[canonicalName(r.CNAME.String())] = name
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return out, err
		}
	}
}

// connectors are the nodes of this process that are app connectors, by their engines.
var connectors sync.Map // of *ipnlocal.LocalBackend to *Node

// Control asks an app connector for its domains and their addresses.
func init() {
	ipnlocal.RegisterC2N("GET /appconnector/routes", func(lb *ipnlocal.LocalBackend, w http.ResponseWriter, _ *http.Request) {
		var answer tailcfg.C2NAppConnectorDomainRoutesResponse
		if n, ok := connectors.Load(lb); ok {
			answer.Domains = n.(*Node).connector.byName()
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer)
	})
}
