package awsapi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
)

// Interface is a network interface (ENI).
type Interface struct{ ID, VPCID, SubnetID string }

// VPC is a VPC with its current CIDRs.
type VPC struct {
	ID           string
	Primary      netip.Prefix  // the IPv4 CIDR that it was created with
	Associations []Association // IPv4 before IPv6, each in AWS's order; never empty
	DHCPOptions  string        // the ID of its DHCP option set; "" is none
}

// Association is a CIDR in state "associated".
type Association struct {
	ID     string // "vpc-cidr-assoc-..."
	Prefix netip.Prefix
}

// DescribeNetworkInterfaces is the action that [Client.InterfaceByMAC], [Client.InterfacesOf],
// [Client.InterfacesDelegated], [Client.TransitGatewayZones] and [Client.TargetInterfaces] need.
var DescribeNetworkInterfaces = Action{Name: "ec2:DescribeNetworkInterfaces", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{DryRun: aws.Bool(true)})
	return err
}}

// InterfaceByMAC finds the interface with this MAC address.
func (c *Client) InterfaceByMAC(ctx context.Context, mac string) (Interface, error) {
	req := c.describe(DescribeNetworkInterfaces, "the interface with MAC address "+mac,
		"check that AWS_REGION and the credentials are the task's own")
	var out *ec2.DescribeNetworkInterfacesOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{
			Filters: []types.Filter{{Name: aws.String("mac-address"), Values: []string{mac}}},
		})
		return err
	})
	if err != nil {
		return Interface{}, err
	}
	switch n := len(out.NetworkInterfaces); {
	case n == 0:
		return Interface{}, req.fail(problem.RoutesUnknown, "", "there is none in "+req.region, req.find)
	case n > 1:
		return Interface{}, req.fail(problem.RoutesUnknown, "", fmt.Sprintf("%d have it", n), "set ROUTER_ROUTES to CIDRs")
	}
	eni := out.NetworkInterfaces[0]
	return Interface{
		ID:       aws.ToString(eni.NetworkInterfaceId),
		VPCID:    aws.ToString(eni.VpcId),
		SubnetID: aws.ToString(eni.SubnetId),
	}, nil
}

// InterfaceDetails is a network interface with its addresses and security groups.
type InterfaceDetails struct {
	Interface
	Zone   string // availability zone
	Owner  string // the account that owns it; that of the VPC may be another
	Groups []string
	Addrs  []netip.Addr // the primary IPv4 address first
}

// InterfacesOf returns the interfaces with a MAC address, or with an address in a VPC; an empty vpc
// is any. Private addresses of different VPCs may be the same.
func (c *Client) InterfacesOf(ctx context.Context, mac string, addr netip.Addr, vpc string) ([]InterfaceDetails, error) {
	var filters []types.Filter
	resource := "the interface with " + addr.String()
	switch {
	case mac != "":
		resource, filters = "the interface with MAC address "+mac, append(filters, filter("mac-address", mac))
	case addr.Is4():
		filters = append(filters, filter("addresses.private-ip-address", addr.String()))
	default:
		filters = append(filters, filter("ipv6-addresses.ipv6-address", addr.String()))
	}
	if vpc != "" {
		filters = append(filters, filter("vpc-id", vpc))
	}
	return c.interfaces(ctx, resource, filters)
}

// TransitGatewayZones returns the availability zones of a VPC in which transit gateways are attached.
func (c *Client) TransitGatewayZones(ctx context.Context, vpc string) (zones []string, err error) {
	list, err := c.interfaces(ctx, "the interfaces of transit gateways in VPC "+vpc, []types.Filter{filter("vpc-id", vpc), filter("interface-type", "transit_gateway")})
	for _, i := range list {
		zones = append(zones, i.Zone)
	}
	return zones, err
}

func filter(name, value string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: []string{value}}
}

// interfaces returns the interfaces that all filters match: few, as in one answer.
func (c *Client) interfaces(ctx context.Context, resource string, filters []types.Filter) ([]InterfaceDetails, error) {
	req := c.describe(DescribeNetworkInterfaces, resource, "")
	var out *ec2.DescribeNetworkInterfacesOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filters})
		return err
	})
	if err != nil {
		return nil, err
	}
	var list []InterfaceDetails
	for _, eni := range out.NetworkInterfaces {
		list = append(list, interfaceDetails(eni))
	}
	return list, nil
}

func interfaceDetails(eni types.NetworkInterface) InterfaceDetails {
	d := InterfaceDetails{
		ID: aws.ToString(eni.NetworkInterfaceId), VPCID: aws.ToString(eni.VpcId), SubnetID: aws.ToString(eni.SubnetId),
		Zone: aws.ToString(eni.AvailabilityZone), Owner: aws.ToString(eni.OwnerId),
	}
	for _, g := range eni.Groups {
		d.Groups = append(d.Groups, aws.ToString(g.GroupId))
	}
	addrs := []string{aws.ToString(eni.PrivateIpAddress)}
	for _, a := range eni.PrivateIpAddresses {
		addrs = append(addrs, aws.ToString(a.PrivateIpAddress))
	}
	for _, a := range eni.Ipv6Addresses {
		addrs = append(addrs, aws.ToString(a.Ipv6Address))
	}
	for _, text := range addrs {
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(d.Addrs, a) {
			d.Addrs = append(d.Addrs, a)
		}
	}
	return d
}

// maxDelegatedPages bounds the calls of [Client.InterfacesDelegated]: 20,000 interfaces.
const maxDelegatedPages = 20

// InterfacesDelegated returns the interface in a VPC to which a prefix with an address is delegated,
// if there is one. EC2 has no filter for it, so all interfaces of the VPC are read until it is found.
func (c *Client) InterfacesDelegated(ctx context.Context, addr netip.Addr, vpc string) ([]InterfaceDetails, error) {
	req := c.describe(DescribeNetworkInterfaces, "the prefixes delegated to interfaces of VPC "+vpc, "")
	pages := ec2.NewDescribeNetworkInterfacesPaginator(c.ec2, &ec2.DescribeNetworkInterfacesInput{
		Filters:    []types.Filter{{Name: aws.String("vpc-id"), Values: []string{vpc}}},
		MaxResults: aws.Int32(pageSize),
	})
	for n := 0; pages.HasMorePages(); n++ {
		if n == maxDelegatedPages {
			return nil, req.fail(problem.RoutesUnknown, "", fmt.Sprintf("the VPC has more than %d pages of interfaces, the most that are read for an answer", n), "")
		}
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, eni := range out.NetworkInterfaces {
			if delegated(eni, addr) {
				return []InterfaceDetails{interfaceDetails(eni)}, nil
			}
		}
	}
	return nil, nil
}

// delegated reports whether a prefix with an address is delegated to an interface.
func delegated(eni types.NetworkInterface, addr netip.Addr) bool {
	var texts []string
	for _, p := range eni.Ipv4Prefixes {
		texts = append(texts, aws.ToString(p.Ipv4Prefix))
	}
	for _, p := range eni.Ipv6Prefixes {
		texts = append(texts, aws.ToString(p.Ipv6Prefix))
	}
	return slices.ContainsFunc(texts, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Contains(addr)
	})
}

// DescribeVPCs is the action that [Client.VPC] needs.
var DescribeVPCs = Action{Name: "ec2:DescribeVpcs", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{DryRun: aws.Bool(true)})
	return err
}}

// VPC returns the VPC's associated CIDRs. An answer without any is an error: accepting it
// would withdraw every route.
func (c *Client) VPC(ctx context.Context, id string) (VPC, error) {
	req := c.describe(DescribeVPCs, "VPC "+id,
		"check that the VPC still exists and that AWS_REGION and the credentials are the task's own")
	req.missing = map[string]bool{"InvalidVpcID.NotFound": true, "InvalidVpcID.Malformed": true}
	var out *ec2.DescribeVpcsOutput
	err := c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{id}})
		return err
	})
	if err != nil {
		return VPC{}, err
	}
	if len(out.Vpcs) == 0 {
		return VPC{}, req.fail(problem.RoutesUnknown, "", "there is none in "+req.region, req.find)
	}
	vpc := VPC{ID: id}
	if options := aws.ToString(out.Vpcs[0].DhcpOptionsId); options != "default" { // which means none
		vpc.DHCPOptions = options
	}
	vpc.Primary, _ = netip.ParsePrefix(aws.ToString(out.Vpcs[0].CidrBlock))
	for _, a := range associated(out.Vpcs[0]) {
		p, err := netip.ParsePrefix(a.cidr)
		if err != nil {
			return VPC{}, req.fail(problem.RoutesUnknown, "", fmt.Sprintf("parsing %s: %v", a.id, err), "")
		}
		vpc.Associations = append(vpc.Associations, Association{ID: a.id, Prefix: p})
	}
	if len(vpc.Associations) == 0 {
		return VPC{}, req.fail(problem.RoutesUnknown, "", "the answer has no CIDR in state associated", "wait until one is associated, or set ROUTER_ROUTES to CIDRs")
	}
	return vpc, nil
}

// describe returns a request to EC2, whose Describe actions have no resource-level permissions.
func (c *Client) describe(a Action, resource, find string) request {
	return request{
		op: a.Name, resource: resource, region: c.Region(), find: find,
		allow: fmt.Sprintf(`allow %s on "*" in the task role's policy`, a.Name),
	}
}

type cidr struct{ id, cidr string }

func associated(vpc types.Vpc) (list []cidr) {
	for _, a := range vpc.CidrBlockAssociationSet {
		if s := a.CidrBlockState; s != nil && s.State == types.VpcCidrBlockStateCodeAssociated {
			list = append(list, cidr{aws.ToString(a.AssociationId), aws.ToString(a.CidrBlock)})
		}
	}
	for _, a := range vpc.Ipv6CidrBlockAssociationSet {
		if s := a.Ipv6CidrBlockState; s != nil && s.State == types.VpcCidrBlockStateCodeAssociated {
			list = append(list, cidr{aws.ToString(a.AssociationId), aws.ToString(a.Ipv6CidrBlock)})
		}
	}
	return list
}
