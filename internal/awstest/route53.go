package awstest

import (
	"encoding/xml"
	"net/http"
	"slices"
	"strconv"
)

// HostedZone is a private hosted zone of Route 53.
type HostedZone struct {
	ID, Name string // the name ends with a dot
	Service  string // that owns it, such as "efs.amazonaws.com"; default: the account
	VPCs     []string
	Foreign  bool // of another account, which does not let this one read it
}

// ResolverRule is a rule of Route 53 Resolver.
type ResolverRule struct {
	ID, Domain string // the domain ends with a dot
	Type       string // default "FORWARD"
	VPCs       []string
	Foreign    bool // of another account, which does not share it with this one
}

// hostedZonesByVPC is the path of Route 53's ListHostedZonesByVPC.
const hostedZonesByVPC = "/2013-04-01/hostedzonesbyvpc"

type listHostedZones struct {
	XMLName   xml.Name            `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ListHostedZonesByVPCResponse"`
	Zones     []hostedZoneSummary `xml:"HostedZoneSummaries>HostedZoneSummary"`
	MaxItems  int                 `xml:"MaxItems"`
	NextToken string              `xml:"NextToken,omitempty"`
}

type hostedZoneSummary struct {
	ID      string `xml:"HostedZoneId"`
	Name    string `xml:"Name"`
	Account string `xml:"Owner>OwningAccount,omitempty"`
	Service string `xml:"Owner>OwningService,omitempty"`
}

// serveHostedZones answers a call of Route 53, which is global: the region is a parameter.
func (s *Server) serveHostedZones(w http.ResponseWriter, r *http.Request) {
	const action = "route53:ListHostedZonesByVPC"
	s.record(action)
	fail := s.next(action)
	fail.wait(r.Context())
	query := r.URL.Query()
	world := s.snapshot().in(query.Get("vpcregion"))
	_, signed := signedFor(r)
	route53 := queryService{namespace: "https://route53.amazonaws.com/doc/2013-04-01/"}
	switch {
	case fail.Status != 0:
		queryError(w, route53, fail.Status, &awsError{Code: fail.Code, Message: fail.Message})
		return
	case !signed:
		queryError(w, route53, http.StatusForbidden, &awsError{Code: "MissingAuthenticationToken", Message: "Missing Authentication Token"})
		return
	case !slices.ContainsFunc(world.VPCs, func(v VPC) bool { return v.ID == query.Get("vpcid") }):
		queryError(w, route53, http.StatusBadRequest, &awsError{Code: "InvalidVPCId", Message: "The VPC " + query.Get("vpcid") + " in region " + query.Get("vpcregion") + " that you provided is not authorized to make the association."})
		return
	}
	var zones []HostedZone
	for _, z := range world.HostedZones {
		if slices.Contains(z.VPCs, query.Get("vpcid")) {
			zones = append(zones, z)
		}
	}
	page, next := world.tokenPage(zones, query.Get("nexttoken"))
	out := listHostedZones{MaxItems: 100, NextToken: next}
	for _, z := range page {
		item := hostedZoneSummary{ID: z.ID, Name: z.Name, Service: z.Service}
		if z.Service == "" {
			item.Account = world.account()
		}
		out.Zones = append(out.Zones, item)
	}
	body, err := xml.Marshal(out)
	if err != nil {
		panic(err) // cannot fail: it has only strings and numbers
	}
	fail.finish(r.Context())
	fail.send(w, "text/xml", append([]byte(xml.Header), body...))
}

// tokenPage returns the page of zones that begins at a token, and the next token.
func (w World) tokenPage(zones []HostedZone, token string) (page []HostedZone, next string) {
	from, _ := strconv.Atoi(token)
	page = zones[min(from, len(zones)):]
	if w.PageSize > 0 && w.PageSize < len(page) {
		page, next = page[:w.PageSize], strconv.Itoa(from+w.PageSize)
	}
	return page, next
}

type listRuleAssociationsIn struct {
	Filters []struct {
		Name   string
		Values []string
	}
	MaxResults int
	NextToken  string
}

type ruleAssociation struct {
	ID     string `json:"Id"`
	RuleID string `json:"ResolverRuleId"`
	VPCID  string `json:"VPCId"`
	Status string
}

type listRuleAssociationsOut struct {
	ResolverRuleAssociations []ruleAssociation
	NextToken                string `json:",omitempty"`
}

func (s *Server) listResolverRuleAssociations(region string, in listRuleAssociationsIn) (listRuleAssociationsOut, *awsError) {
	w := s.snapshot().in(region)
	var all []ruleAssociation
	for _, r := range w.ResolverRules {
		for _, vpc := range r.VPCs {
			keep := true
			for _, f := range in.Filters {
				if f.Name != "VPCId" {
					return listRuleAssociationsOut{}, &awsError{Code: "InvalidParameterException", Message: "The filter '" + f.Name + "' is invalid"}
				}
				keep = keep && slices.Contains(f.Values, vpc)
			}
			if keep {
				all = append(all, ruleAssociation{"rslvr-rrassoc-" + r.ID, r.ID, vpc, "COMPLETE"})
			}
		}
	}
	from, _ := strconv.Atoi(in.NextToken)
	out := listRuleAssociationsOut{ResolverRuleAssociations: all[min(from, len(all)):]}
	if n := w.PageSize; n > 0 && n < len(out.ResolverRuleAssociations) {
		out.ResolverRuleAssociations, out.NextToken = out.ResolverRuleAssociations[:n], strconv.Itoa(from+n)
	}
	return out, nil
}

type listRulesIn struct {
	MaxResults int
	NextToken  string
}

type ruleItem struct {
	ID         string `json:"Id"`
	DomainName string
	RuleType   string
	Status     string
}

type listRulesOut struct {
	ResolverRules []ruleItem
	NextToken     string `json:",omitempty"`
}

func (s *Server) listResolverRules(region string, in listRulesIn) (listRulesOut, *awsError) {
	w := s.snapshot().in(region)
	all := []ruleItem{{"rslvr-autodefined-rr-internet-resolver", ".", "RECURSIVE", "COMPLETE"}}
	for _, r := range w.ResolverRules {
		if r.Foreign {
			continue
		}
		all = append(all, ruleItem{r.ID, r.Domain, or(r.Type, "FORWARD"), "COMPLETE"})
	}
	from, _ := strconv.Atoi(in.NextToken)
	out := listRulesOut{ResolverRules: all[min(from, len(all)):]}
	if n := w.PageSize; n > 0 && n < len(out.ResolverRules) {
		out.ResolverRules, out.NextToken = out.ResolverRules[:n], strconv.Itoa(from+n)
	}
	return out, nil
}
