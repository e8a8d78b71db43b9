package awsapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/route53profiles"
	profiletypes "github.com/aws/aws-sdk-go-v2/service/route53profiles/types"

	"subnetrouter/internal/secret"
)

// The actions that [Client.ProfileDomains] needs, in addition to [ListResolverRules].
var (
	ListProfileAssociations         = Action{Name: "route53profiles:ListProfileAssociations"}
	ListProfileResourceAssociations = Action{Name: "route53profiles:ListProfileResourceAssociations"}
	GetHostedZone                   = Action{Name: "route53:GetHostedZone"}
)

// maxProfileZones bounds the hosted zones of profiles, each of which takes a call.
const maxProfileZones = 300

// profileDomains is one look-up of [Client.ProfileDomains].
type profileDomains struct {
	client *Client
	vpcID  string

	zones, rules []string          // IDs, each once
	profile      map[string]string // that brings a zone or rule, by its ID
	found        []Domain
	unread       []string
}

// ProfileDomains returns the domains of the private hosted zones, and of the rules that forward,
// which Route 53 Profiles bring to a VPC. A profile that another account shares may have
// resources that this one cannot read: unread describes them.
func (c *Client) ProfileDomains(ctx context.Context, vpcID string) (found []Domain, unread []string, err error) {
	p := profileDomains{client: c, vpcID: vpcID, profile: map[string]string{}}
	profiles, err := p.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range profiles {
		if err := p.resources(ctx, id); err != nil {
			return nil, nil, err
		}
	}
	if err := p.readZones(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.readRules(ctx); err != nil {
		return nil, nil, err
	}
	return p.found, p.unread, nil
}

func (p *profileDomains) request(a Action) request {
	req := p.client.describe(a, "the Route 53 Profiles of VPC "+p.vpcID, "")
	req.allow += ", or " + listZonesByHand
	return req
}

// list returns the IDs of the profiles of the VPC, of which AWS allows one.
func (p *profileDomains) list(ctx context.Context) (ids []string, err error) {
	pages := route53profiles.NewListProfileAssociationsPaginator(p.client.profiles, &route53profiles.ListProfileAssociationsInput{ResourceId: &p.vpcID})
	for n := 0; n < maxPages && pages.HasMorePages(); n++ {
		out, err := nextPage(ctx, p.client, p.request(ListProfileAssociations), pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, a := range out.ProfileAssociations {
			if aws.ToString(a.ResourceId) == p.vpcID && inForce(a.Status) {
				ids = append(ids, aws.ToString(a.ProfileId))
			}
		}
	}
	return ids, nil
}

// inForce reports whether an association resolves names.
func inForce(s profiletypes.ProfileStatus) bool {
	return s == profiletypes.ProfileStatusComplete || s == profiletypes.ProfileStatusUpdating
}

// resources adds the zones and rules of a profile. Its other resources, such as firewall rules,
// have no domains, except for interface endpoints, whose names AWS does not list with them.
func (p *profileDomains) resources(ctx context.Context, profile string) error {
	pages := route53profiles.NewListProfileResourceAssociationsPaginator(p.client.profiles, &route53profiles.ListProfileResourceAssociationsInput{ProfileId: &profile})
	for n := 0; n < maxPages && pages.HasMorePages(); n++ {
		out, err := nextPage(ctx, p.client, p.request(ListProfileResourceAssociations), pages.NextPage)
		if err != nil {
			return err
		}
		for _, a := range out.ProfileResourceAssociations {
			if inForce(a.Status) {
				p.add(aws.ToString(a.ResourceArn), secret.Clean(profile, maxCode))
			}
		}
	}
	return nil
}

func (p *profileDomains) add(resource, profile string) {
	arn, _ := ParseARN(resource)
	kind, id, _ := strings.Cut(arn.Resource, "/")
	var list *[]string
	switch {
	case arn.Service == "route53" && kind == "hostedzone":
		list = &p.zones
	case arn.Service == "route53resolver" && kind == "resolver-rule":
		list = &p.rules
	case arn.Service == "ec2" && kind == "vpc-endpoint":
		p.unread = append(p.unread, fmt.Sprintf("Route 53 Profile %s has the interface endpoint %s, whose names AWS does not list: add them to ROUTER_DNS_ZONES if clients need them", profile, secret.Clean(id, maxCode)))
		return
	default:
		return
	}
	if p.profile[id] == "" {
		p.profile[id], *list = profile, append(*list, id)
	}
}

// readZones looks up the names of the zones. Only the account of a zone can.
func (p *profileDomains) readZones(ctx context.Context) error {
	for i, id := range p.zones {
		if i == maxProfileZones {
			p.unread = append(p.unread, fmt.Sprintf("%d more private hosted zones of Route 53 Profiles are not looked up: add their names to ROUTER_DNS_ZONES", len(p.zones)-i))
			return nil
		}
		req := p.request(GetHostedZone)
		req.resource = "private hosted zone " + secret.Clean(id, maxCode) + " of a Route 53 Profile"
		var out *route53.GetHostedZoneOutput
		err := p.client.call(ctx, req, func(ctx context.Context) (err error) {
			out, err = p.client.route53.GetHostedZone(ctx, &route53.GetHostedZoneInput{Id: &id})
			return err
		})
		switch code, _ := errors.AsType[Code](err); {
		case deniedCodes[string(code)] || code == "NoSuchHostedZone":
			p.missing("private hosted zone", id, ", or allow route53:GetHostedZone in the task role's policy if the zone is this account's")
		case err != nil:
			return err
		case out.HostedZone != nil:
			p.found = append(p.found, domain(out.HostedZone.Name, "private hosted zone "+secret.Clean(id, maxCode)+" of Route 53 Profile "+p.profile[id]))
		}
	}
	return nil
}

// readRules looks up the domains of the rules, if there are any.
func (p *profileDomains) readRules(ctx context.Context) error {
	if len(p.rules) == 0 {
		return nil
	}
	rules := map[string]bool{}
	for _, id := range p.rules {
		rules[id] = true
	}
	found, known, err := p.client.forwarded(ctx, p.vpcID, rules)
	if err != nil {
		return err
	}
	for _, id := range p.rules {
		if !known[id] {
			p.missing("resolver rule", id, "")
		}
	}
	for _, d := range found {
		d.Source += " of a Route 53 Profile"
		p.found = append(p.found, d)
	}
	return nil
}

// missing notes a resource that the task role cannot read, most likely another account's.
func (p *profileDomains) missing(kind, id, fix string) {
	p.unread = append(p.unread, fmt.Sprintf("the task role cannot read %s %s of Route 53 Profile %s: add its domain to ROUTER_DNS_ZONES%s", kind, secret.Clean(id, maxCode), p.profile[id], fix))
}
