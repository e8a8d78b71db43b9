// Package zones finds the domains that only the VPC's DNS resolver resolves, so that the
// tailnet's split DNS can send them there: those of ROUTER_DNS_ZONES, and with auto those
// that AWS reports for the VPC.
package zones

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// Zone is a domain that the VPC's resolver resolves.
type Zone struct {
	Name   string // in lower case, without a dot at its end
	Source string // "private hosted zone Z0123", "ROUTER_DNS_ZONES"
}

// Zones is the result of a look-up.
type Zones struct {
	List  []Zone // by name, each once
	Notes []string
}

// Names returns the names of the zones.
func (z Zones) Names() (names []string) {
	for _, zone := range z.List {
		names = append(names, zone.Name)
	}
	return names
}

// maxZones bounds the zones. A VPC can have 300 hosted zones and more by request.
const maxZones = 500

// byHand is the source of zones that the operator wrote.
const byHand = "ROUTER_DNS_ZONES"

// Settings is the part of the configuration that selects zones: ROUTER_DNS_ZONES.
type Settings struct {
	Auto  bool     // look up those of the VPC
	Names []string // further ones, in canonical form
}

// None reports whether no zone is configured.
func (s Settings) None() bool { return !s.Auto && len(s.Names) == 0 }

const auto = "auto"

// Parse parses a comma list of domain names, of which one may be auto.
func Parse(list string) (Settings, error) {
	names, err := routes.ParseList(list, "auto or corp.example.com", parse)
	if err != nil {
		return Settings{}, err
	}
	if len(names) > maxZones {
		return Settings{}, fmt.Errorf("the list has %d domains: use %d at most", len(names), maxZones)
	}
	var s Settings
	for _, name := range names {
		if name == auto {
			s.Auto = true
		} else {
			s.Names = append(s.Names, name)
		}
	}
	return s, nil
}

func parse(element string) (string, error) {
	if element == auto {
		return auto, nil
	}
	name := strings.ToLower(strings.TrimSuffix(element, "."))
	if !valid(name) {
		return "", fmt.Errorf("%q is not a domain: write auto, or a name such as corp.example.com", element)
	}
	return name, nil
}

// domainName matches names of DNS zones, whose labels may have underscores.
var domainName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)

// address matches names that end in a number, such as an address without its prefix length.
var address = regexp.MustCompile(`(^|\.)[0-9]+$`)

func valid(name string) bool {
	const maxName = 253
	return len(name) <= maxName && domainName.MatchString(name) && !address.MatchString(name)
}

// source is a kind of look-up of auto.
type source struct {
	what  string // for notes: "the private hosted zones"
	needs []awsapi.Action
	find  func(context.Context, *awsapi.Client, awsapi.VPC) ([]awsapi.Domain, []string, error)
}

// sources are the look-ups of auto. The IAM policy derives from this table.
var sources = []source{
	{"the private hosted zones", []awsapi.Action{awsapi.ListHostedZonesByVPC}, hostedZones},
	{"the resolver rules", []awsapi.Action{awsapi.ListResolverRuleAssociations, awsapi.ListResolverRules}, resolverRules},
	{"the Route 53 Profiles", []awsapi.Action{awsapi.ListProfileAssociations, awsapi.ListProfileResourceAssociations, awsapi.GetHostedZone, awsapi.ListResolverRules}, profiles},
	{"the names of instances", []awsapi.Action{awsapi.DescribeVPCAttribute}, internalDomain},
	{"the DHCP options", []awsapi.Action{awsapi.DescribeDHCPOptions}, otherServers},
}

// Needs returns the AWS actions that the look-ups call, in their order. Route 53 checks
// ec2:DescribeVpcs, too, when it lists the zones of a VPC.
func (s Settings) Needs() (list []iam.Need) {
	if !s.Auto {
		return nil
	}
	list = append(list, iam.Need{Action: awsapi.DescribeNetworkInterfaces, UnlessVPCKnown: true}, iam.Need{Action: awsapi.DescribeVPCs})
	for _, source := range sources {
		for _, a := range source.needs {
			list = append(list, iam.Need{Action: a})
		}
	}
	return list
}

func hostedZones(ctx context.Context, c *awsapi.Client, vpc awsapi.VPC) ([]awsapi.Domain, []string, error) {
	found, err := c.HostedZones(ctx, vpc.ID)
	return found, nil, err
}

func resolverRules(ctx context.Context, c *awsapi.Client, vpc awsapi.VPC) ([]awsapi.Domain, []string, error) {
	found, err := c.ResolverRules(ctx, vpc.ID)
	return found, nil, err
}

func profiles(ctx context.Context, c *awsapi.Client, vpc awsapi.VPC) ([]awsapi.Domain, []string, error) {
	return c.ProfileDomains(ctx, vpc.ID)
}

// internalDomain returns the domain of the names that AWS gives instances.
func internalDomain(ctx context.Context, c *awsapi.Client, vpc awsapi.VPC) ([]awsapi.Domain, []string, error) {
	support, hostnames, err := c.VPCDNS(ctx, vpc.ID)
	switch {
	case err != nil:
		return nil, nil, err
	case !support:
		return nil, []string{fmt.Sprintf("VPC %s has no DNS resolver: set enableDnsSupport, without which no zone is resolved", vpc.ID)}, nil
	case !hostnames:
		return nil, nil, nil
	}
	name := c.Region() + ".compute.internal"
	if c.Region() == "us-east-1" {
		name = "ec2.internal"
	}
	return []awsapi.Domain{{Name: name, Source: "names of instances (enableDnsHostnames)"}}, nil, nil
}

// otherServers returns a note if the VPC's instances use other DNS servers than AWS's, whose
// zones AWS does not know.
func otherServers(ctx context.Context, c *awsapi.Client, vpc awsapi.VPC) ([]awsapi.Domain, []string, error) {
	if vpc.DHCPOptions == "" {
		return nil, nil, nil
	}
	servers, err := c.DHCPServers(ctx, vpc.DHCPOptions)
	if err != nil || len(servers) == 0 {
		return nil, nil, err
	}
	return nil, []string{fmt.Sprintf("the DHCP options %s of VPC %s name other DNS servers (%s), whose zones AWS does not list: add them to ROUTER_DNS_ZONES if the VPC's resolver forwards them",
		vpc.DHCPOptions, vpc.ID, strings.Join(servers[:min(len(servers), 8)], ", "))}, nil
}

// Finder finds the zones. It is safe for concurrent use.
type Finder struct {
	settings Settings
	place    *place.Finder

	mu   sync.Mutex     // covers good; not held during a look-up
	good map[int]result // the last good result of each of sources
}

type result struct {
	domains []awsapi.Domain
	notes   []string
}

// New returns a Finder. It looks nothing up.
func New(s Settings, p *place.Finder) *Finder {
	return &Finder{settings: s, place: p, good: map[int]result{}}
}

// Find looks up the zones. If a source fails, its last good result stays, the others count, and
// a note and the error name the cause.
func (f *Finder) Find(ctx context.Context) (Zones, error) {
	var all []result
	var errs []error
	if f.settings.Auto {
		all, errs = f.lookUp(ctx)
	}
	var z Zones
	for _, name := range f.settings.Names {
		z.add(Zone{name, byHand})
	}
	for _, r := range all {
		for _, d := range r.domains {
			switch {
			case d.Name == "":
				z.Notes = append(z.Notes, d.Source+" is for all domains: make the VPC's resolver a global nameserver of the tailnet if clients need it")
			case valid(d.Name):
				z.add(Zone{d.Name, d.Source})
			default:
				z.Notes = append(z.Notes, fmt.Sprintf("%s has the name %q, which split DNS cannot have", d.Source, d.Name))
			}
		}
		z.Notes = append(z.Notes, r.notes...)
	}
	for _, err := range errs {
		z.Notes = append(z.Notes, err.Error())
	}
	slices.SortFunc(z.List, func(a, b Zone) int { return strings.Compare(a.Name, b.Name) })
	if more := len(z.List) - maxZones; more > 0 {
		z.List = z.List[:maxZones]
		z.Notes = append(z.Notes, fmt.Sprintf("%d more zones are not listed", more))
	}
	const maxNotes = 20
	if more := len(z.Notes) - maxNotes; more > 0 {
		z.Notes = append(z.Notes[:maxNotes], fmt.Sprintf("%d more notes", more))
	}
	return z, errors.Join(errs...)
}

// add adds a zone, or its source to that of the same name.
func (z *Zones) add(zone Zone) {
	i := slices.IndexFunc(z.List, func(o Zone) bool { return o.Name == zone.Name })
	if i < 0 {
		z.List = append(z.List, zone)
		return
	}
	const maxSource = 200
	if s := z.List[i].Source; s != zone.Source && len(s) < maxSource {
		z.List[i].Source = s + ", " + zone.Source
	}
}

// lookUp asks every source, and returns their last good results and the errors.
func (f *Finder) lookUp(ctx context.Context) (all []result, errs []error) {
	client, err := f.place.AWS(ctx)
	var vpc awsapi.VPC
	if err == nil {
		vpc, err = f.place.VPC(ctx)
	}
	if err != nil {
		errs = append(errs, problem.Wrapf(err, "looking up the zones of the VPC"))
	}
	for i, s := range sources {
		if err == nil {
			domains, notes, failed := s.find(ctx, client, vpc)
			if failed != nil {
				errs = append(errs, problem.Wrapf(failed, "looking up %s of the VPC", s.what))
			} else {
				f.keep(i, result{domains, notes})
			}
		}
		f.mu.Lock()
		all = append(all, f.good[i])
		f.mu.Unlock()
	}
	return all, errs
}

func (f *Finder) keep(i int, r result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.good[i] = r
}
