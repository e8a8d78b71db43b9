package awstest

import (
	"encoding/xml"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

type describeVpcAttribute struct {
	XMLName   xml.Name
	RequestID string `xml:"requestId"`
	VpcID     string `xml:"vpcId"`
	Support   *bool  `xml:"enableDnsSupport>value,omitempty"`
	Hostnames *bool  `xml:"enableDnsHostnames>value,omitempty"`
}

func (w World) describeVpcAttribute(form url.Values) (answer any, code, message string) {
	id := form.Get("VpcId")
	i := slices.IndexFunc(w.VPCs, func(v VPC) bool { return v.ID == id })
	if i < 0 {
		return nil, "InvalidVpcID.NotFound", fmt.Sprintf("The vpc ID '%s' does not exist", id)
	}
	out := describeVpcAttribute{XMLName: response("DescribeVpcAttribute"), RequestID: requestID, VpcID: id}
	support := !w.VPCs[i].NoDNS
	switch form.Get("Attribute") {
	case "enableDnsSupport":
		out.Support = &support
	case "enableDnsHostnames":
		out.Hostnames = &w.VPCs[i].Hostnames
	default:
		return nil, "InvalidParameterValue", "Value (" + form.Get("Attribute") + ") for parameter attribute is invalid."
	}
	return out, "", ""
}

// dhcpOptions returns the ID of the VPC's DHCP option set.
func (v VPC) dhcpOptions() string {
	if v.DHCPServers == nil {
		return or(v.DHCPOptions, "dopt-0a1b2c3d")
	}
	return or(v.DHCPOptions, "dopt-"+strings.TrimPrefix(v.ID, "vpc-"))
}

type describeDHCPOptions struct {
	XMLName   xml.Name
	RequestID string     `xml:"requestId"`
	Sets      []dhcpItem `xml:"dhcpOptionsSet>item"`
}

type dhcpItem struct {
	ID      string       `xml:"dhcpOptionsId"`
	Options []dhcpOption `xml:"dhcpConfigurationSet>item"`
}

type dhcpOption struct {
	Key    string      `xml:"key"`
	Values []dhcpValue `xml:"valueSet>item"`
}

type dhcpValue struct {
	Value string `xml:"value"`
}

func (w World) describeDHCPOptions(form url.Values) (answer any, code, message string) {
	out := describeDHCPOptions{XMLName: response("DescribeDhcpOptions"), RequestID: requestID}
	ids := numbered(form, "DhcpOptionsId.%d")
	for _, v := range w.VPCs {
		if len(ids) > 0 && !slices.Contains(ids, v.dhcpOptions()) || slices.ContainsFunc(out.Sets, func(i dhcpItem) bool { return i.ID == v.dhcpOptions() }) {
			continue
		}
		var servers []dhcpValue
		for _, s := range v.DHCPServers {
			servers = append(servers, dhcpValue{s})
		}
		if servers == nil {
			servers = []dhcpValue{{"AmazonProvidedDNS"}}
		}
		out.Sets = append(out.Sets, dhcpItem{v.dhcpOptions(), []dhcpOption{
			{"domain-name", []dhcpValue{{w.region() + ".compute.internal"}}}, {"domain-name-servers", servers},
		}})
	}
	if len(ids) > len(out.Sets) {
		return nil, "InvalidDhcpOptionID.NotFound", fmt.Sprintf("The dhcpOption ID '%s' does not exist", ids[0])
	}
	return out, "", ""
}
