package awstest

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// Answers have the elements that AWS documents, in the same order.

type describeVpcs struct {
	XMLName   xml.Name  `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ DescribeVpcsResponse"`
	RequestID string    `xml:"requestId"`
	VPCs      []vpcItem `xml:"vpcSet>item"`
}

type vpcItem struct {
	VpcID     string     `xml:"vpcId"`
	OwnerID   string     `xml:"ownerId"`
	State     string     `xml:"state"`
	CIDR      string     `xml:"cidrBlock,omitempty"`
	IPv4      []ipv4Item `xml:"cidrBlockAssociationSet>item"`
	IPv6      []ipv6Item `xml:"ipv6CidrBlockAssociationSet>item"`
	DHCP      string     `xml:"dhcpOptionsId"`
	Tenancy   string     `xml:"instanceTenancy"`
	IsDefault bool       `xml:"isDefault"`
}

type ipv4Item struct {
	CIDR  string `xml:"cidrBlock"`
	ID    string `xml:"associationId"`
	State string `xml:"cidrBlockState>state"`
}

type ipv6Item struct {
	CIDR  string `xml:"ipv6CidrBlock"`
	ID    string `xml:"associationId"`
	State string `xml:"ipv6CidrBlockState>state"`
	Pool  string `xml:"ipv6Pool"`
}

type describeNetworkInterfaces struct {
	XMLName    xml.Name  `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ DescribeNetworkInterfacesResponse"`
	RequestID  string    `xml:"requestId"`
	Interfaces []eniItem `xml:"networkInterfaceSet>item"`
	NextToken  string    `xml:"nextToken,omitempty"`
}

type eniItem struct {
	ID        string        `xml:"networkInterfaceId"`
	SubnetID  string        `xml:"subnetId"`
	VpcID     string        `xml:"vpcId"`
	OwnerID   string        `xml:"ownerId"`
	Status    string        `xml:"status"`
	MAC       string        `xml:"macAddress"`
	Type      string        `xml:"interfaceType"`
	Zone      string        `xml:"availabilityZone,omitempty"`
	PrivateIP string        `xml:"privateIpAddress,omitempty"`
	IPv4      []eniIPv4Item `xml:"privateIpAddressesSet>item"`
	IPv6      []eniIPv6Item `xml:"ipv6AddressesSet>item"`

	Attachment *eniAttachment   `xml:"attachment"`
	Groups     []eniGroup       `xml:"groupSet>item"`
	Tags       []tagItem        `xml:"tagSet>item"`
	Prefixes4  []eniPrefix4Item `xml:"ipv4PrefixSet>item"`
	Prefixes6  []eniPrefix6Item `xml:"ipv6PrefixSet>item"`
}

type eniAttachment struct {
	ID       string `xml:"attachmentId"`
	Instance string `xml:"instanceId"`
	Status   string `xml:"status"`
}

type eniGroup struct {
	ID   string `xml:"groupId"`
	Name string `xml:"groupName"`
}

type eniPrefix4Item struct {
	Prefix string `xml:"ipv4Prefix"`
}

type eniPrefix6Item struct {
	Prefix string `xml:"ipv6Prefix"`
}

type eniIPv4Item struct {
	Address string `xml:"privateIpAddress"`
	Primary bool   `xml:"primary"`
}

type eniIPv6Item struct {
	Address string `xml:"ipv6Address"`
}

func (s *Server) serveEC2(w http.ResponseWriter, r *http.Request, name string) {
	action := "ec2:" + name
	s.record(action)
	fail := s.next(action)
	fail.wait(r.Context())
	region, signed := signedFor(r)
	world := s.snapshot().in(region)
	var answer any
	var code, message string
	switch {
	case fail.Status != 0:
		ec2Error(w, fail.Status, fail.Code, fail.Message)
		return
	case !signed:
		ec2Error(w, http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials")
		return
	case name == "DescribeVpcs":
		answer, code, message = world.describeVpcs(r.Form)
	case name == "DescribeVpcAttribute":
		answer, code, message = world.describeVpcAttribute(r.Form)
	case name == "DescribeDhcpOptions":
		answer, code, message = world.describeDHCPOptions(r.Form)
	case name == "DescribeNetworkInterfaces":
		answer, code, message = world.describeNetworkInterfaces(r.Form)
	case name == "DescribeTags":
		answer, code, message = world.describeTags(r.Form)
	case name == "DescribeSubnets":
		answer, code, message = world.describeSubnets(r.Form)
	case name == "DescribeRouteTables":
		answer, code, message = world.describeRouteTables(r.Form)
	case name == "DescribeVpcPeeringConnections":
		answer, code, message = world.describePeerings(r.Form)
	case name == "DescribeSecurityGroups":
		answer, code, message = world.describeSecurityGroups(r.Form)
	case name == "DescribeNetworkAcls":
		answer, code, message = world.describeNetworkACLs(r.Form)
	case name == "GetManagedPrefixListEntries":
		answer, code, message = world.prefixListEntries(r.Form)
	default:
		code, message = "InvalidAction", fmt.Sprintf("The action %s is not valid for this web service.", name)
	}
	if code == "" && r.Form.Get("DryRun") == "true" {
		ec2Error(w, http.StatusPreconditionFailed, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
		return
	}
	if code != "" {
		ec2Error(w, http.StatusBadRequest, code, message)
		return
	}
	body, err := xml.Marshal(answer)
	if err != nil {
		panic(err) // cannot fail: it has only strings and booleans
	}
	fail.finish(r.Context())
	fail.send(w, "text/xml;charset=UTF-8", append([]byte(xml.Header), body...))
}

func (w World) describeVpcs(form url.Values) (answer any, code, message string) {
	out := describeVpcs{RequestID: requestID}
	ids := numbered(form, "VpcId.%d")
	for _, v := range w.VPCs {
		if len(ids) == 0 || slices.Contains(ids, v.ID) {
			out.VPCs = append(out.VPCs, w.vpcItem(v))
		}
	}
	for _, id := range ids {
		if !slices.ContainsFunc(w.VPCs, func(v VPC) bool { return v.ID == id }) {
			return nil, "InvalidVpcID.NotFound", fmt.Sprintf("The vpc ID '%s' does not exist", id)
		}
	}
	return out, "", ""
}

func (w World) vpcItem(v VPC) vpcItem {
	item := vpcItem{VpcID: v.ID, OwnerID: w.account(), State: "available", DHCP: v.dhcpOptions(), Tenancy: "default"}
	for _, a := range v.CIDRs {
		state := or(a.State, "associated")
		if a.Prefix.Addr().Is4() {
			if item.CIDR == "" {
				item.CIDR = a.Prefix.String()
			}
			item.IPv4 = append(item.IPv4, ipv4Item{a.Prefix.String(), a.ID, state})
		} else {
			item.IPv6 = append(item.IPv6, ipv6Item{a.Prefix.String(), a.ID, state, "Amazon"})
		}
	}
	return item
}

func (w World) describeNetworkInterfaces(form url.Values) (answer any, code, message string) {
	if n := form.Get("MaxResults"); n != "" {
		if size, err := strconv.Atoi(n); err != nil || size < 5 || size > 1000 {
			return nil, "InvalidParameterValue", fmt.Sprintf("Value ( %s ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.", n)
		}
	}
	page, next, code, message := selectPage(w, form, w.Interfaces, Interface.values)
	out := describeNetworkInterfaces{RequestID: requestID, NextToken: next}
	for _, i := range page {
		out.Interfaces = append(out.Interfaces, w.eniItem(i))
	}
	return out, code, message
}

func (w World) eniItem(i Interface) eniItem {
	item := eniItem{
		ID: i.ID, SubnetID: i.SubnetID, VpcID: i.VPCID, OwnerID: w.account(),
		Status: "in-use", MAC: i.MAC, Type: or(i.Type, "interface"), Zone: i.Zone,
	}
	for _, a := range i.Addresses {
		switch {
		case !a.Is4():
			item.IPv6 = append(item.IPv6, eniIPv6Item{a.String()})
		case item.PrivateIP == "":
			item.PrivateIP = a.String()
			item.IPv4 = append(item.IPv4, eniIPv4Item{a.String(), true})
		default:
			item.IPv4 = append(item.IPv4, eniIPv4Item{a.String(), false})
		}
	}
	if i.Instance != "" {
		item.Attachment = &eniAttachment{"eni-attach-" + i.ID, i.Instance, "attached"}
	}
	for _, g := range i.Groups {
		item.Groups = append(item.Groups, eniGroup(g))
	}
	for _, key := range slices.Sorted(maps.Keys(i.Tags)) {
		item.Tags = append(item.Tags, tagItem{key, i.Tags[key]})
	}
	for _, p := range i.Prefixes {
		if p.Addr().Is4() {
			item.Prefixes4 = append(item.Prefixes4, eniPrefix4Item{p.String()})
		} else {
			item.Prefixes6 = append(item.Prefixes6, eniPrefix6Item{p.String()})
		}
	}
	return item
}

type describeTags struct {
	XMLName   xml.Name
	RequestID string            `xml:"requestId"`
	Tags      []resourceTagItem `xml:"tagSet>item"`
	NextToken string            `xml:"nextToken,omitempty"`
}

type resourceTagItem struct {
	Resource string `xml:"resourceId"`
	Type     string `xml:"resourceType"`
	Key      string `xml:"key"`
	Value    string `xml:"value"`
}

// describeTags returns the tags of instances. Other resources have tags, too, which no call needs.
func (w World) describeTags(form url.Values) (answer any, code, message string) {
	if n := len(numbered(form, "Filter.1.Value.%d")); n > 200 {
		return nil, "FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200"
	}
	var all []resourceTagItem
	for _, id := range slices.Sorted(maps.Keys(w.Instances)) {
		for _, key := range slices.Sorted(maps.Keys(w.Instances[id])) {
			all = append(all, resourceTagItem{id, "instance", key, w.Instances[id][key]})
		}
	}
	page, next, code, message := selectPage(w, form, all, func(t resourceTagItem, filter string) ([]string, bool) {
		return []string{t.Resource}, filter == "resource-id"
	})
	return describeTags{response("DescribeTags"), requestID, page, next}, code, message
}

// numbered returns a list of the query protocol: the values of VpcId.1, VpcId.2, ...
func numbered(form url.Values, pattern string) (list []string) {
	for n := 1; ; n++ {
		v, ok := form[fmt.Sprintf(pattern, n)]
		if !ok {
			return list
		}
		list = append(list, v...)
	}
}

func ec2Error(w http.ResponseWriter, status int, code, message string) {
	type item struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	body, err := xml.Marshal(struct {
		XMLName   xml.Name `xml:"Response"`
		Errors    []item   `xml:"Errors>Error"`
		RequestID string   `xml:"RequestID"`
	}{Errors: []item{{code, message}}, RequestID: requestID})
	if err != nil {
		panic(err) // cannot fail: it has only strings
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	w.Write(append([]byte(xml.Header), body...))
}
