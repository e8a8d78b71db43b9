package awstest

import (
	"encoding/xml"
	"fmt"
	"net/netip"
	"net/url"
)

// SecurityGroup is a security group. A new one of AWS allows all egress, this one only its rules.
type SecurityGroup struct {
	ID, Name, VPCID string
	Ingress, Egress []GroupRule
}

// GroupRule allows a protocol ("-1", "tcp", "udp", "icmp") from From to To to one peer: Prefix, or
// List, or Group.
type GroupRule struct {
	Protocol    string
	From, To    int
	Prefix      netip.Prefix
	List, Group string
}

// NetworkACL is a network ACL. AWS adds the entries that deny everything else.
type NetworkACL struct {
	ID, VPCID string
	Subnets   []string
	Entries   []ACLEntry
}

// ACLEntry is an entry of a network ACL. From and To are ports, or type and code of ICMP.
type ACLEntry struct {
	Number        int
	Egress, Allow bool
	Protocol      string // "-1", "6", "17", "1"
	Prefix        netip.Prefix
	From, To      int
}

type describeSecurityGroups struct {
	XMLName   xml.Name
	RequestID string      `xml:"requestId"`
	Groups    []groupItem `xml:"securityGroupInfo>item"`
	NextToken string      `xml:"nextToken,omitempty"`
}

type groupItem struct {
	OwnerID string           `xml:"ownerId"`
	ID      string           `xml:"groupId"`
	Name    string           `xml:"groupName"`
	VpcID   string           `xml:"vpcId"`
	Ingress []permissionItem `xml:"ipPermissions>item"`
	Egress  []permissionItem `xml:"ipPermissionsEgress>item"`
}

type permissionItem struct {
	Protocol string     `xml:"ipProtocol"`
	From     *int       `xml:"fromPort,omitempty"`
	To       *int       `xml:"toPort,omitempty"`
	Groups   []pairItem `xml:"groups>item"`
	IPv4     []cidrIP   `xml:"ipRanges>item"`
	IPv6     []cidrIP   `xml:"ipv6Ranges>item"`
	Lists    []listItem `xml:"prefixListIds>item"`
}

type pairItem struct {
	UserID string `xml:"userId"`
	ID     string `xml:"groupId"`
}

type cidrIP struct {
	IPv4 string `xml:"cidrIp,omitempty"`
	IPv6 string `xml:"cidrIpv6,omitempty"`
}

type listItem struct {
	ID string `xml:"prefixListId"`
}

func (w World) describeSecurityGroups(form url.Values) (answer any, code, message string) {
	page, next, code, message := selectPage(w, form, w.SecurityGroups, func(g SecurityGroup, filter string) ([]string, bool) {
		if filter == "vpc-id" {
			return []string{g.VPCID}, true
		}
		return []string{g.ID}, filter == "group-id"
	})
	out := describeSecurityGroups{XMLName: response("DescribeSecurityGroups"), RequestID: requestID, NextToken: next}
	for _, g := range page {
		out.Groups = append(out.Groups, groupItem{
			OwnerID: w.account(), ID: g.ID, Name: g.Name, VpcID: g.VPCID, Ingress: w.permissions(g.Ingress), Egress: w.permissions(g.Egress),
		})
	}
	return out, code, message
}

func (w World) permissions(rules []GroupRule) (list []permissionItem) {
	for _, r := range rules {
		item := permissionItem{Protocol: r.Protocol}
		if r.Protocol != "-1" {
			item.From, item.To = &r.From, &r.To
		}
		switch {
		case r.Group != "":
			item.Groups = []pairItem{{w.account(), r.Group}}
		case r.List != "":
			item.Lists = []listItem{{r.List}}
		case r.Prefix.Addr().Is4():
			item.IPv4 = []cidrIP{{IPv4: r.Prefix.String()}}
		default:
			item.IPv6 = []cidrIP{{IPv6: r.Prefix.String()}}
		}
		list = append(list, item)
	}
	return list
}

type describeNetworkACLs struct {
	XMLName   xml.Name
	RequestID string    `xml:"requestId"`
	ACLs      []aclItem `xml:"networkAclSet>item"`
	NextToken string    `xml:"nextToken,omitempty"`
}

type aclItem struct {
	ID           string           `xml:"networkAclId"`
	VpcID        string           `xml:"vpcId"`
	OwnerID      string           `xml:"ownerId"`
	Entries      []aclEntryItem   `xml:"entrySet>item"`
	Associations []aclAssociation `xml:"associationSet>item"`
}

type aclEntryItem struct {
	Number   int        `xml:"ruleNumber"`
	Protocol string     `xml:"protocol"`
	Action   string     `xml:"ruleAction"`
	Egress   bool       `xml:"egress"`
	IPv4     string     `xml:"cidrBlock,omitempty"`
	IPv6     string     `xml:"ipv6CidrBlock,omitempty"`
	ICMP     *icmpItem  `xml:"icmpTypeCode,omitempty"`
	Ports    *portsItem `xml:"portRange,omitempty"`
}

type icmpItem struct {
	Code int `xml:"code"`
	Type int `xml:"type"`
}

type portsItem struct {
	From int `xml:"from"`
	To   int `xml:"to"`
}

type aclAssociation struct {
	ID     string `xml:"networkAclAssociationId"`
	ACL    string `xml:"networkAclId"`
	Subnet string `xml:"subnetId"`
}

func (w World) describeNetworkACLs(form url.Values) (answer any, code, message string) {
	page, next, code, message := selectPage(w, form, w.NetworkACLs, func(a NetworkACL, filter string) ([]string, bool) {
		if filter == "association.subnet-id" {
			return a.Subnets, true
		}
		return []string{a.VPCID}, filter == "vpc-id"
	})
	out := describeNetworkACLs{XMLName: response("DescribeNetworkAcls"), RequestID: requestID, NextToken: next}
	for _, a := range page {
		item := aclItem{ID: a.ID, VpcID: a.VPCID, OwnerID: w.account()}
		for _, e := range a.Entries {
			item.Entries = append(item.Entries, e.item())
		}
		for _, egress := range []bool{false, true} {
			item.Entries = append(item.Entries, aclEntryItem{Number: 32767, Protocol: "-1", Action: "deny", Egress: egress, IPv4: "0.0.0.0/0"})
		}
		for _, s := range a.Subnets {
			item.Associations = append(item.Associations, aclAssociation{"aclassoc-" + s, a.ID, s})
		}
		out.ACLs = append(out.ACLs, item)
	}
	return out, code, message
}

func (e ACLEntry) item() aclEntryItem {
	item := aclEntryItem{Number: e.Number, Protocol: e.Protocol, Action: "deny", Egress: e.Egress}
	if e.Allow {
		item.Action = "allow"
	}
	if e.Prefix.Addr().Is4() {
		item.IPv4 = e.Prefix.String()
	} else {
		item.IPv6 = e.Prefix.String()
	}
	switch e.Protocol {
	case "6", "17":
		item.Ports = &portsItem{e.From, e.To}
	case "1", "58":
		item.ICMP = &icmpItem{Type: e.From, Code: e.To}
	}
	return item
}

// values returns an interface's values for a filter of DescribeNetworkInterfaces.
func (i Interface) values(filter string) (list []string, ok bool) {
	switch filter {
	case "mac-address":
		return []string{i.MAC}, true
	case "vpc-id":
		return []string{i.VPCID}, true
	case "interface-type":
		return []string{or(i.Type, "interface")}, true
	case "group-id":
		for _, g := range i.Groups {
			list = append(list, g.ID)
		}
		return list, true
	case "addresses.private-ip-address", "ipv6-addresses.ipv6-address":
		for _, a := range i.Addresses {
			if a.Is4() == (filter == "addresses.private-ip-address") {
				list = append(list, fmt.Sprint(a))
			}
		}
		return list, true
	}
	return nil, false
}
