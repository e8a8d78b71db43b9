package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/splitdns"
	"subnetrouter/internal/tsapi"

	"github.com/prometheus/client_golang/prometheus"
)

// dnsState is the state of the registration of split DNS, as /status has it.
type dnsState string

const (
	dnsOff         dnsState = "off"
	dnsWaiting     dnsState = "waiting"     // for the router to be ready, the VPC's resolver or a zone
	dnsRegistered  dnsState = "registered"  // a read has confirmed it
	dnsPartial     dnsState = "partial"     // except for domains with options that a change would reset
	dnsDenied      dnsState = "denied"      // the client or identity lacks the scope
	dnsUnsupported dnsState = "unsupported" // the server does not have the API
	dnsNoClient    dnsState = "no_client"   // the credential is an auth key
	dnsFailing     dnsState = "failing"     // any other failure
)

// The results of router_dns_registrations_total that are not states.
const (
	dnsUnchanged = "unchanged"
	dnsChanged   = "changed"
)

// dnsTable is the tailnet's split DNS, as package bootstrap reaches it.
type dnsTable interface {
	SplitDNS(ctx context.Context) (splitdns.Table, error)
	SplitDNSWithOptions(ctx context.Context) (splitdns.Table, error)
	PatchSplitDNS(ctx context.Context, change splitdns.Table) error
}

// dnsRegistrar keeps the VPC's resolver registered in the tailnet's split DNS. Its failures affect
// nothing else.
type dnsRegistrar struct {
	table   dnsTable
	own     func() (own splitdns.Own, why string) // the nameserver and domains; why not yet, or ""
	log     *slog.Logger
	results *prometheus.CounterVec

	// busy is a semaphore of one: full during a registration or a removal. It covers ended.
	busy  chan struct{}
	ended bool // removed: nothing is registered from now on

	mu  sync.Mutex // covers now; not held during calls
	now dnsRegistration
}

// dnsRegistration is the status of the registration.
type dnsRegistration struct {
	state   dnsState
	message string
	fix     string
	own     splitdns.Own // last registered, or tried; zero before
	held    []string     // domains that were left alone: see keepOptions
	checked time.Time    // when a read confirmed it; zero means never
}

func newDNSRegistrar(on bool, table dnsTable, own func() (splitdns.Own, string), log *slog.Logger, reg prometheus.Registerer) *dnsRegistrar {
	d := &dnsRegistrar{table: table, own: own, log: log, busy: make(chan struct{}, 1), now: dnsRegistration{state: dnsOff}}
	if on {
		d.now = dnsRegistration{state: dnsWaiting, message: "the router is starting"}
	}
	d.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_dns_registrations_total", Help: "Checks of the router's entries in the tailnet's split DNS, by result.",
	}, []string{"result"})
	for _, result := range []string{dnsUnchanged, dnsChanged, string(dnsPartial), string(dnsDenied), string(dnsUnsupported), string(dnsNoClient), string(dnsFailing)} {
		d.results.WithLabelValues(result)
	}
	reg.MustRegister(d.results, gauge("router_dns_registered_domains", "Domains of the tailnet's split DNS that name the VPC's resolver for this router, by the last check.", func() float64 {
		now := d.status()
		if now.state != dnsRegistered && now.state != dnsPartial {
			return 0
		}
		return float64(len(now.own.Domains) - len(now.held))
	}))
	return d
}

func (d *dnsRegistrar) status() dnsRegistration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// The pauses of the registrar.
const (
	dnsPoll        = 2 * time.Second  // while waiting, which makes no call
	minDNSInterval = time.Minute      // between checks
	dnsFirstRetry  = 10 * time.Second // after a failure, then longer
	dnsSettle      = 2 * time.Second  // between a write and the read that confirms it
	dnsTimeout     = time.Minute      // of one check
)

// run checks the registration now and at the given interval, at most once a minute, and repairs
// it, until ctx ends.
func (d *dnsRegistrar) run(ctx context.Context, every time.Duration) {
	every = max(every, minDNSInterval)
	retry := backoff.Backoff{First: dnsFirstRetry, Max: every, Share: backoff.Retry}
	for {
		pause := backoff.Jitter(every, backoff.Interval)
		if own, why := d.own(); why != "" {
			d.note(dnsRegistration{state: dnsWaiting, message: why})
			pause = backoff.Jitter(dnsPoll, backoff.Interval)
		} else if failed := d.check(ctx, own); failed != nil {
			pause = max(retry.Next(), failed.RetryAfter)
		} else {
			retry.Reset()
		}
		if !backoff.Sleep(ctx, pause) {
			return
		}
	}
}

// check registers own once, and updates the status. It returns a failure to retry soon; one that
// an operator has to fix is not.
func (d *dnsRegistrar) check(ctx context.Context, own splitdns.Own) *problem.Problem {
	ctx, cancel := context.WithTimeoutCause(ctx, dnsTimeout, errors.New("no end within a minute"))
	defer cancel()
	if !d.acquire(ctx) {
		return nil
	}
	defer d.release()
	if d.ended {
		return nil
	}
	changed, held, err := d.converge(ctx, func(now splitdns.Table) splitdns.Change { return splitdns.Register(own, now) })
	next := dnsRegistration{own: own, held: held, checked: time.Now()}
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return nil // the router stops
		}
		p := dnsProblem(err)
		next = dnsRegistration{state: stateOf(err), message: p.Message, fix: p.Fix, own: own, checked: d.status().checked}
		d.results.WithLabelValues(string(next.state)).Inc()
		if d.note(next); next.state == dnsFailing {
			return p
		}
		return nil
	}
	result := dnsUnchanged
	switch {
	case len(held) > 0:
		next.state = dnsPartial
		next.message = "the nameservers of " + domains(held) + " have options, or may have, which a change by Tailscale's API would reset; they were left alone"
		next.fix = fmt.Sprintf("in the admin console, under DNS, add the nameserver %s to them", own.Nameserver)
		result = string(dnsPartial)
	default:
		next.state = dnsRegistered
		if changed {
			result = dnsChanged
		}
	}
	d.results.WithLabelValues(result).Inc()
	d.note(next)
	return nil
}

// remove removes the nameserver from every domain that has it, for the last router of a service that
// ends: from then on no client reaches it, whether this task, an earlier one or a person registered
// it. It returns the number of domains. Nothing is registered after it, also if it fails.
func (d *dnsRegistrar) remove(ctx context.Context, nameserver netip.Addr) (from int, err error) {
	if !d.acquire(ctx) {
		return 0, context.Cause(ctx)
	}
	defer d.release()
	d.ended = true
	removed := map[string]bool{}
	_, held, err := d.converge(ctx, func(table splitdns.Table) splitdns.Change {
		change := splitdns.Remove(nameserver, table)
		for _, domain := range change.Domains() {
			removed[domain] = true
		}
		return change
	})
	if err == nil && len(held) > 0 {
		err = problem.New(dnsRemovalFix(nameserver)+" from them", "the nameservers of %s have options, or may have, which a change would reset", domains(held))
	}
	return len(removed), problem.Wrapf(err, "removing the VPC's resolver from the tailnet's split DNS")
}

func (d *dnsRegistrar) acquire(ctx context.Context) bool {
	select {
	case d.busy <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *dnsRegistrar) release() { <-d.busy }

// converge reads the split DNS and writes the change to it, until a read shows that there is
// nothing to change: another program may have written the same list at the same time. held are the
// domains that keepOptions left alone.
func (d *dnsRegistrar) converge(ctx context.Context, plan func(splitdns.Table) splitdns.Change) (changed bool, held []string, err error) {
	const maxWrites = 4
	for writes := 0; ; writes++ {
		now, err := d.table.SplitDNS(ctx)
		if err != nil {
			return changed, nil, err
		}
		change, held, err := keepOptions(ctx, d.table, now, plan(now))
		if err != nil || change.None() {
			return changed, held, err
		}
		if writes == maxWrites {
			return changed, held, problem.New("find the program that sets them, such as Terraform, and have it keep this router's nameserver, or set ROUTER_DNS_REGISTER=off",
				"another program reverts the nameservers of %s", domains(change.Domains()))
		}
		if err := d.table.PatchSplitDNS(ctx, change.Lists); err != nil {
			return changed, held, err
		}
		changed = true
		d.log.Info("split DNS changed", "domains", change.Domains(), "shared", change.Shared)
		if !backoff.Sleep(ctx, backoff.Jitter(dnsSettle, 0.5)) {
			return changed, held, context.Cause(ctx)
		}
	}
}

// keepOptions takes the domains out of change whose nameservers have options that the change
// would reset, as the table of addresses that it is based on does not have them. Only a list with
// nameservers of others can.
func keepOptions(ctx context.Context, table dnsTable, now splitdns.Table, change splitdns.Change) (_ splitdns.Change, held []string, err error) {
	if len(change.Shared) == 0 {
		return change, nil, nil
	}
	full, err := table.SplitDNSWithOptions(ctx)
	if err != nil && !errors.Is(err, tsapi.ErrUnsupported) {
		return change, nil, err
	}
	for _, domain := range change.Shared {
		list, known := full[domain]
		if !known || splitdns.HasOptions(list) && !splitdns.HasOptions(now[domain]) {
			held = append(held, domain)
		}
	}
	return change.Without(held), held, nil
}

// stateOf returns the state after a failure.
func stateOf(err error) dnsState {
	switch {
	case errors.Is(err, credential.ErrNoClient):
		return dnsNoClient
	case errors.Is(err, tsapi.ErrDenied):
		return dnsDenied
	case errors.Is(err, tsapi.ErrUnsupported):
		return dnsUnsupported
	}
	return dnsFailing
}

// dnsProblem returns a failure with the code of registrations.
func dnsProblem(err error) *problem.Problem {
	p := *problem.Of(err)
	if errors.Is(err, credential.ErrNoClient) {
		p = *problem.New("use an OAuth client or a federated identity with the scope dns, or set ROUTER_DNS_REGISTER=off",
			"the credential is an auth key, which cannot change the tailnet's split DNS")
	}
	p.Code = problem.DNSRegistrationFailed
	return &p
}

// note updates the status, and logs a change of it.
func (d *dnsRegistrar) note(next dnsRegistration) {
	d.mu.Lock()
	before := d.now
	if next.state == dnsWaiting {
		next.own, next.checked = before.own, before.checked
	}
	d.now = next
	d.mu.Unlock()
	if before.state == next.state && before.message == next.message {
		return
	}
	switch next.state {
	case dnsRegistered:
		d.log.Info("split DNS registered", "nameserver", next.own.Nameserver.String(), "domains", len(next.own.Domains))
	case dnsWaiting:
		d.log.Info("registration of split DNS waits", "reason", next.message)
	default:
		d.log.Warn("registration of split DNS incomplete", "state", string(next.state), "message", next.message, "fix", next.fix)
	}
}

// warning returns the problem of the registration; nil if there is none.
func (d *dnsRegistrar) warning() *problem.Problem {
	switch now := d.status(); now.state {
	case dnsOff, dnsWaiting, dnsRegistered:
		return nil
	default:
		return &problem.Problem{Code: problem.DNSRegistrationFailed, Message: "registering split DNS (" + string(now.state) + "): " + now.message, Fix: now.fix}
	}
}

// describe returns the registration as /status has it.
func (d *dnsRegistrar) describe() ops.DNSRegistration {
	now := d.status()
	out := ops.DNSRegistration{State: string(now.state), Message: secret.Clean(now.message, ops.MaxMessage), Checked: now.checked, Held: now.held}
	if now.own.Nameserver.IsValid() {
		out.Nameserver, out.Domains = now.own.Nameserver.String(), now.own.Domains
	}
	return out
}

// registerDNS keeps the VPC's resolver registered, if that is configured.
func (r *Router) registerDNS(ctx context.Context) error {
	if r.cfg.DNSRegister {
		r.dns.run(ctx, r.cfg.Refresh)
	}
	return nil
}

// ownDNS returns the nameserver and the domains to register, or why not yet: clients must be
// able to reach the nameserver first.
func (r *Router) ownDNS() (splitdns.Own, string) {
	resolver, zones := r.lookUps.dns()
	switch {
	case r.draining.Load():
		return splitdns.Own{}, "the router is stopping"
	case resolver == nil:
		return splitdns.Own{}, "the VPC's resolver is unknown"
	case !resolver.Route.IsValid():
		return splitdns.Own{}, fmt.Sprintf("the VPC's resolver %s is in no advertised route", resolver.Addr)
	case len(zones.List) == 0:
		return splitdns.Own{}, "no zone is known"
	}
	if reasons := r.notReady(); len(reasons) > 0 {
		return splitdns.Own{}, "the router is not ready (" + string(reasons[0].Code) + ")"
	}
	return splitdns.Own{Nameserver: resolver.Through, Domains: zones.Names()}, ""
}
