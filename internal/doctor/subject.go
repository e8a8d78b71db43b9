package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/config"
	"subnetrouter/internal/memo"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnet"
)

// Subject is the router to check, running or not.
type Subject struct {
	Config config.Config
	// Bootstrap is the part of Config for look-ups, as the router derives it.
	Bootstrap bootstrap.Config
	// Status returns the status of the running router, or an error if none answers.
	Status func(context.Context) (ops.Status, error)
	// DERPMap returns the running router's DERP map in JSON.
	DERPMap func(context.Context) ([]byte, error)
	// Approve returns the part of the tailnet's policy file that approves these routes.
	Approve func([]netip.Prefix) string
	// Roles has, for each role that is on, the part of the policy that it needs.
	Roles map[string]string
	// Memory returns the memory limit of this container in bytes (0 is none) and its
	// source: the control group, or the limit in task metadata (MiB, 0 is unknown).
	Memory func(taskMiB int) (limit int64, source string)
	// GoMemory is the value of GOMEMLIMIT; "" is unset.
	GoMemory string
	// DialResolver connects to the VPC's resolver; nil uses the network.
	DialResolver func(ctx context.Context, network, address string) (net.Conn, error)
	// Now returns the local time; nil uses time.Now.
	Now func() time.Time
}

// exam holds the facts that the checks of one report share. Each is looked up once.
type exam struct {
	Subject
	mode     tailnet.Mode
	place    *memo.Memo[place.Place]
	boot     *memo.Memo[*bootstrap.Bootstrap]
	routes   *memo.Memo[routesource.Routes]
	status   *memo.Memo[ops.Status]
	resolved *memo.Memo[resolution]
	answer   *memo.Memo[controlAnswer]
	derpMap  *memo.Memo[*tailnet.DERPMap]
	udp      *memo.Memo[tailnet.UDP]

	mu   sync.Mutex     // protects skew
	skew *time.Duration // AWS's clock minus the local one, at the last answer; nil before
}

type resolution struct {
	host  string
	addrs []netip.Addr
	took  time.Duration
}

// errNoTask is the error of a fact that was not looked up, since there is no task metadata.
var errNoTask = errors.New("needs task metadata")

// Checks returns all checks of s.
func Checks(s Subject) []Check {
	e := &exam{Subject: s}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.DialResolver == nil {
		e.DialResolver = new(net.Dialer).DialContext
	}
	e.mode, _, _ = tailnet.ModeFor(tailnet.ParseMode(s.Config.Mode.String()))
	// One short try: a person waits for the report.
	e.Bootstrap.Tries, e.Bootstrap.TryTimeout, e.Bootstrap.Date = 1, 4*time.Second, e.recordAWSDate
	first := bootstrap.New(e.Bootstrap)
	e.place = newFact(func(ctx context.Context) (place.Place, error) {
		ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
		defer cancel()
		return first.Place(ctx)
	})
	e.boot = newFact(func(ctx context.Context) (*bootstrap.Bootstrap, error) {
		if _, err := e.place.Get(ctx); err == nil {
			return first, nil
		}
		without := e.Bootstrap // so that no other check waits for the metadata
		without.MetadataURI = ""
		return bootstrap.New(without), nil
	})
	e.routes = newFact(e.findRoutes)
	e.status = newFact(func(ctx context.Context) (ops.Status, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return s.Status(ctx)
	})
	e.resolved = newFact(e.resolveControl)
	e.answer = newFact(e.askControl)
	e.derpMap = newFact(e.findDERPMap)
	e.udp = newFact(func(ctx context.Context) (tailnet.UDP, error) {
		relays, err := e.derpMap.Get(ctx)
		if err != nil {
			return tailnet.UDP{}, err
		}
		return relays.UDP(ctx, e.mode)
	})

	checks := append(e.configurationChecks(),
		Check{"place", "task metadata", e.metadata},
		Check{"place", "network", e.network},
		Check{"place", "router", e.router},
	)
	checks = append(checks, e.awsChecks()...)
	checks = append(checks, e.credentialChecks()...)
	checks = append(checks, Check{"identity", "state", e.state})
	return append(checks,
		Check{"control", "name", e.controlName},
		Check{"control", "reach", e.controlReach},
		Check{"control", "clock", e.clock},
		Check{"relays", "list", e.derpList},
		Check{"relays", "TCP 443", e.derpReach},
		Check{"relays", "UDP", e.udpReach},
		Check{"relays", "NAT", e.nat},
		Check{"host", "mode", e.forwarding},
		Check{"host", "ping", e.ping},
		Check{"host", "memory", e.memory},
		Check{"host", "open files", e.openFiles},
		Check{"routes", "found", e.routesFound},
		Check{"routes", "overlaps", e.overlaps},
		Check{"routes", "approval", e.approval},
		Check{"routes", "roles", e.roles},
		Check{"routes", "resolver", e.resolver},
		Check{"routes", "zones", e.zones},
		Check{"routes", "split DNS", e.registration},
	)
}
