package awstest

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const ec2Namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

func response(action string) xml.Name {
	return xml.Name{Space: ec2Namespace, Local: action + "Response"}
}

type describeSubnets struct {
	XMLName   xml.Name
	RequestID string       `xml:"requestId"`
	Subnets   []subnetItem `xml:"subnetSet>item"`
	NextToken string       `xml:"nextToken,omitempty"`
}

type subnetItem struct {
	ID      string     `xml:"subnetId"`
	State   string     `xml:"state"`
	OwnerID string     `xml:"ownerId"`
	VpcID   string     `xml:"vpcId"`
	CIDR    string     `xml:"cidrBlock,omitempty"`
	IPv6    []ipv6Item `xml:"ipv6CidrBlockAssociationSet>item"`
	Tags    []tagItem  `xml:"tagSet>item"`
}

type tagItem struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func (w World) describeSubnets(form url.Values) (answer any, code, message string) {
	page, next, code, message := selectPage(w, form, w.Subnets, func(s Subnet, filter string) ([]string, bool) {
		if tag, ok := strings.CutPrefix(filter, "tag:"); ok {
			v, tagged := s.Tags[tag]
			if !tagged {
				return nil, true
			}
			return []string{v}, true
		}
		return []string{s.VPCID}, filter == "vpc-id"
	})
	out := describeSubnets{XMLName: response("DescribeSubnets"), RequestID: requestID, NextToken: next}
	for _, s := range page {
		item := subnetItem{ID: s.ID, State: "available", OwnerID: w.account(), VpcID: s.VPCID}
		if s.IPv4.IsValid() {
			item.CIDR = s.IPv4.String()
		}
		for _, a := range s.IPv6 {
			item.IPv6 = append(item.IPv6, ipv6Item{a.Prefix.String(), a.ID, or(a.State, "associated"), ""})
		}
		for _, key := range slices.Sorted(maps.Keys(s.Tags)) {
			item.Tags = append(item.Tags, tagItem{key, s.Tags[key]})
		}
		out.Subnets = append(out.Subnets, item)
	}
	return out, code, message
}

type describeRouteTables struct {
	XMLName   xml.Name
	RequestID string           `xml:"requestId"`
	Tables    []routeTableItem `xml:"routeTableSet>item"`
	NextToken string           `xml:"nextToken,omitempty"`
}

type routeTableItem struct {
	ID           string             `xml:"routeTableId"`
	VpcID        string             `xml:"vpcId"`
	OwnerID      string             `xml:"ownerId"`
	Routes       []routeItem        `xml:"routeSet>item"`
	Associations []tableAssociation `xml:"associationSet>item"`
}

type routeItem struct {
	IPv4           string `xml:"destinationCidrBlock,omitempty"`
	IPv6           string `xml:"destinationIpv6CidrBlock,omitempty"`
	PrefixList     string `xml:"destinationPrefixListId,omitempty"`
	Gateway        string `xml:"gatewayId,omitempty"`
	NATGateway     string `xml:"natGatewayId,omitempty"`
	TransitGateway string `xml:"transitGatewayId,omitempty"`
	Peering        string `xml:"vpcPeeringConnectionId,omitempty"`
	State          string `xml:"state"`
	Origin         string `xml:"origin"`
}

type tableAssociation struct {
	ID      string `xml:"routeTableAssociationId"`
	TableID string `xml:"routeTableId"`
	Subnet  string `xml:"subnetId,omitempty"`
	Main    bool   `xml:"main"`
	State   string `xml:"associationState>state"`
}

func (w World) describeRouteTables(form url.Values) (answer any, code, message string) {
	page, next, code, message := selectPage(w, form, w.RouteTables, func(t RouteTable, filter string) ([]string, bool) {
		switch filter {
		case "association.subnet-id":
			return t.Subnets, true
		case "association.main":
			return []string{fmt.Sprint(t.Main)}, true
		}
		return []string{t.VPCID}, filter == "vpc-id"
	})
	out := describeRouteTables{XMLName: response("DescribeRouteTables"), RequestID: requestID, NextToken: next}
	for _, t := range page {
		item := routeTableItem{ID: t.ID, VpcID: t.VPCID, OwnerID: w.account()}
		for _, r := range t.Routes {
			item.Routes = append(item.Routes, r.item())
		}
		if t.Main {
			item.Associations = append(item.Associations, tableAssociation{"rtbassoc-main", t.ID, "", true, "associated"})
		}
		for _, id := range t.Subnets {
			item.Associations = append(item.Associations, tableAssociation{"rtbassoc-" + id, t.ID, id, false, "associated"})
		}
		out.Tables = append(out.Tables, item)
	}
	return out, code, message
}

func (r Route) item() routeItem {
	item := routeItem{PrefixList: r.PrefixList, State: "active", Origin: "CreateRoute"}
	switch {
	case r.PrefixList != "":
	case r.Prefix.Addr().Is4():
		item.IPv4 = r.Prefix.String()
	default:
		item.IPv6 = r.Prefix.String()
	}
	kind, _, _ := strings.Cut(r.Target, "-")
	switch kind {
	case "pcx":
		item.Peering = r.Target
	case "tgw":
		item.TransitGateway = r.Target
	case "nat":
		item.NATGateway = r.Target
	default: // also gateway endpoints
		item.Gateway = r.Target
	}
	if r.Target == "local" {
		item.Origin = "CreateRouteTable"
	}
	if r.Blackhole {
		item.State = "blackhole"
	}
	return item
}

type describePeerings struct {
	XMLName   xml.Name
	RequestID string        `xml:"requestId"`
	Peerings  []peeringItem `xml:"vpcPeeringConnectionSet>item"`
	NextToken string        `xml:"nextToken,omitempty"`
}

type peeringItem struct {
	ID        string      `xml:"vpcPeeringConnectionId"`
	Requester peeringSide `xml:"requesterVpcInfo"`
	Accepter  peeringSide `xml:"accepterVpcInfo"`
	Status    string      `xml:"status>code"`
}

type peeringSide struct {
	OwnerID string     `xml:"ownerId"`
	VpcID   string     `xml:"vpcId"`
	CIDR    string     `xml:"cidrBlock,omitempty"`
	IPv4    []cidrItem `xml:"cidrBlockSet>item"`
	IPv6    []cidrItem `xml:"ipv6CidrBlockSet>item"`
}

type cidrItem struct {
	IPv4 string `xml:"cidrBlock,omitempty"`
	IPv6 string `xml:"ipv6CidrBlock,omitempty"`
}

func (w World) describePeerings(form url.Values) (answer any, code, message string) {
	page, next, code, message := selectPage(w, form, w.Peerings, func(p Peering, filter string) ([]string, bool) {
		return []string{p.ID}, filter == "vpc-peering-connection-id"
	})
	out := describePeerings{XMLName: response("DescribeVpcPeeringConnections"), RequestID: requestID, NextToken: next}
	for _, p := range page {
		out.Peerings = append(out.Peerings, peeringItem{
			ID: p.ID, Requester: w.side(p.Requester), Accepter: w.side(p.Accepter), Status: or(p.Status, "active"),
		})
	}
	return out, code, message
}

func (w World) side(s PeeringSide) peeringSide {
	side := peeringSide{OwnerID: w.account(), VpcID: s.VPCID}
	for _, p := range s.CIDRs {
		if p.Addr().Is4() {
			side.CIDR = or(side.CIDR, p.String())
			side.IPv4 = append(side.IPv4, cidrItem{IPv4: p.String()})
		} else {
			side.IPv6 = append(side.IPv6, cidrItem{IPv6: p.String()})
		}
	}
	return side
}

type prefixListEntries struct {
	XMLName   xml.Name
	RequestID string      `xml:"requestId"`
	Entries   []entryItem `xml:"entrySet>item"`
	NextToken string      `xml:"nextToken,omitempty"`
}

type entryItem struct {
	CIDR        netip.Prefix `xml:"cidr"`
	Description string       `xml:"description,omitempty"`
}

func (w World) prefixListEntries(form url.Values) (answer any, code, message string) {
	id := form.Get("PrefixListId")
	i := slices.IndexFunc(w.PrefixLists, func(l PrefixList) bool { return l.ID == id })
	if i < 0 {
		return nil, "InvalidPrefixListID.NotFound", fmt.Sprintf("The prefix list ID '%s' does not exist", id)
	}
	page, next, code, message := selectPage(w, form, w.PrefixLists[i].Entries, func(Entry, string) ([]string, bool) { return nil, false })
	out := prefixListEntries{XMLName: response("GetManagedPrefixListEntries"), RequestID: requestID, NextToken: next}
	for _, e := range page {
		out.Entries = append(out.Entries, entryItem{e.Prefix, e.Description})
	}
	return out, code, message
}
