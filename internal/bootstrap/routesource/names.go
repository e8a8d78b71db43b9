package routesource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Bounds of the look-ups of names.
const (
	maxNames        = 512 // of all sources
	maxNameAddrs    = 32  // of one name: an RDS proxy or a load balancer has fewer
	maxNameRoutes   = 256 // of all names; each is a route on every client
	maxNameRefusals = 256 // listed of the addresses beyond maxNameRoutes, and of those refused

	parallelNames = 16
	nameTimeout   = 10 * time.Second // for all names of a look-up

	// minNameInterval bounds the interval of name look-ups from below: RDS gives its
	// endpoints a TTL of 5 s, and readers 1 s.
	minNameInterval = 15 * time.Second
)

// hostName is a DNS name that a source leads to.
type hostName struct{ host, source string }

// answer is the result of a look-up of a name.
type answer struct {
	addrs []netip.Addr  // sorted; not empty
	more  int           // addresses that were left out
	ttl   time.Duration // 0 means unknown
}

// names resolves names and remembers the last good answer of each.
type names struct {
	// lookUp resolves one name; ttl is 0 if it is unknown.
	lookUp func(ctx context.Context, host string) (addrs []netip.Addr, ttl time.Duration, err error)

	mu   sync.Mutex        // covers good; not held during a look-up
	good map[string]answer // the last good answers, of the names of the last look-up
}

// resolve returns the finding with the addresses of its names as routes. A name that cannot
// be resolved, or has no address, keeps its last ones: such an answer withdraws nothing, and
// does not delay the other routes. It is an error only if nothing else was found.
//
// again is the interval at which the names want to be looked up; 0 means with the sources.
func (n *names) resolve(ctx context.Context, f finding) (resolved finding, again time.Duration, err error) {
	if len(f.names) == 0 {
		return f, 0, nil
	}
	resolved = finding{routes: slices.Clone(f.routes), refused: f.refused, notes: slices.Clone(f.notes)}
	hosts := hostsOf(f.names)
	if more := len(hosts) - maxNames; more > 0 {
		resolved.notes = append(resolved.notes, fmt.Sprintf("%d of %d names are not looked up, as there are more than %d: narrow the tags in ROUTER_ROUTES", more, len(hosts), maxNames))
		hosts = hosts[:maxNames]
	}
	answers, failed := n.answers(ctx, hosts)
	if ctx.Err() != nil {
		return finding{}, 0, ctx.Err()
	}
	for _, host := range hosts {
		a, known := answers[host]
		switch err := failed[host]; {
		case err != nil && known:
			resolved.notes = append(resolved.notes, fmt.Sprintf("resolving %s failed: %s; its last addresses stay", host, nameCause(err)))
			again = soonest(again, minNameInterval)
		case err != nil:
			resolved.notes = append(resolved.notes, fmt.Sprintf("resolving %s failed: %s; it has no route yet", host, nameCause(err)))
			again = soonest(again, minNameInterval)
		case a.ttl > 0:
			again = soonest(again, max(a.ttl, minNameInterval))
		}
		if a.more > 0 {
			resolved.notes = append(resolved.notes, fmt.Sprintf("%s has %d addresses, of which only the first %d become routes", host, len(a.addrs)+a.more, len(a.addrs)))
		}
	}
	for _, name := range f.names {
		for _, a := range answers[canonical(name.host)].addrs {
			source := name.source
			if !strings.HasSuffix(source, ":"+name.host) { // not host:NAME
				source = fmt.Sprintf("%s, %s", name.source, name.host)
			}
			resolved.add(FromName, source, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if len(resolved.routes) == 0 && len(resolved.refused) == 0 {
		return finding{}, 0, problem.New("correct the name, or make the task's DNS resolver know it", "choosing routes: %s", strings.Join(resolved.notes[:min(len(resolved.notes), 8)], ", "))
	}
	return resolved, again, nil
}

// answers looks the hosts up. It returns their last good answers, new and old, and the errors
// of those whose look-up failed.
func (n *names) answers(ctx context.Context, hosts []string) (good map[string]answer, failed map[string]error) {
	limited, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	results, errs := make([]answer, len(hosts)), make([]error, len(hosts))
	var group errgroup.Group
	group.SetLimit(parallelNames)
	for i, host := range hosts {
		group.Go(func() error {
			results[i], errs[i] = n.answer(limited, host)
			return nil
		})
	}
	group.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	good, failed = map[string]answer{}, map[string]error{}
	for i, host := range hosts {
		if errs[i] == nil {
			good[host] = results[i]
			continue
		}
		failed[host] = errs[i]
		if last, known := n.good[host]; known {
			good[host] = last
		}
	}
	if ctx.Err() == nil {
		n.good = good
	}
	return good, failed
}

var errNoAddress = errors.New("the answer has no address")

func (n *names) answer(ctx context.Context, host string) (answer, error) {
	addrs, ttl, err := n.lookUp(ctx, host)
	if err != nil {
		return answer{}, err
	}
	list := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	if len(list) == 0 {
		return answer{}, errNoAddress
	}
	kept := list[:min(len(list), maxNameAddrs)]
	return answer{addrs: slices.Clone(kept), more: len(list) - len(kept), ttl: ttl}, nil
}

// hostsOf returns the hosts of names in canonical form, each once. A name that AWS gives
// and that is not a DNS name is left out.
func hostsOf(list []hostName) (hosts []string) {
	seen := map[string]bool{}
	for _, n := range list {
		if h := canonical(n.host); !seen[h] && validName(n.host) {
			seen[h] = true
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// canonical returns the form of a name by which it is looked up.
func canonical(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// soonest returns the shorter interval; 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// nameCause returns the cause of a failed look-up without its source port, which differs each
// time and would make it look like another failure.
func nameCause(err error) string {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case d.IsNotFound:
			return "no such host"
		case d.IsTimeout:
			return "no answer in time"
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	const maxCause = 200
	return secret.Clean(err.Error(), maxCause)
}

// chooseNames splits the routes of names into those to advertise and the refused ones.
// covered are the other routes that are advertised: an address in one needs none of its own.
// The order of found decides which come first, if there are too many.
func (f *Finder) chooseNames(found []Route, covered []netip.Prefix, has *families, r *Routes) (chosen []netip.Prefix) {
	refused := 0
	refuse := func(route Route, reason string) {
		if refused++; refused <= maxNameRefusals {
			r.Refused = append(r.Refused, Refusal{route.Prefix, route.Source, reason})
		}
	}
	taken := map[netip.Prefix]bool{}
	for _, route := range found {
		reason := f.unfit(route.Prefix)
		if reason == "" {
			reason = has.lacks(route.Prefix)
		}
		p := route.Prefix
		inside := slices.ContainsFunc(covered, func(outer netip.Prefix) bool { return outer.Contains(p.Addr()) })
		switch {
		case reason != "":
			refuse(route, reason)
			continue
		case !inside && !taken[p] && len(taken) >= maxNameRoutes:
			refuse(route, fmt.Sprintf("names have more than %d addresses outside of other routes: advertise a prefix that contains them", maxNameRoutes))
			continue
		case !inside && !taken[p]:
			taken[p] = true
			chosen = append(chosen, p)
		}
		r.Explain = append(r.Explain, route)
	}
	if more := refused - maxNameRefusals; more > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d more addresses of names are refused", more))
	}
	return chosen
}
