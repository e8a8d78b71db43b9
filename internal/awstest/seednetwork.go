package awstest

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Network describes the resources that [Moto.SeedNetwork] adds to a seeded VPC.
type Network struct {
	Subnets []Subnet       // with their tags; the server sets the IDs
	Peer    netip.Prefix   // CIDR of a peered VPC, to which the subnet of the first interface has a route
	Transit []netip.Prefix // routes of that subnet to a transit gateway
	Entries []Entry        // of a prefix list, to which that subnet has a route by the transit gateway
}

// SeedNetwork creates the resources of n and returns w with them.
func (m *Moto) SeedNetwork(ctx context.Context, w World, n Network) (World, error) {
	s := seeder{ec2: ec2.NewFromConfig(m.config(w.region()))}
	vpcID, subnetID := w.VPCs[0].ID, w.Interfaces[0].SubnetID
	for _, subnet := range n.Subnets {
		created, err := s.taggedSubnet(ctx, vpcID, subnet)
		if err != nil {
			return World{}, fmt.Errorf("creating subnet %s: %w", subnet.IPv4, err)
		}
		w.Subnets = append(w.Subnets, created)
	}
	peering, err := s.peering(ctx, w.VPCs[0], n.Peer)
	if err != nil {
		return World{}, fmt.Errorf("creating a peering: %w", err)
	}
	w.Peerings = append(w.Peerings, peering)
	list, err := s.prefixList(ctx, n.Entries)
	if err != nil {
		return World{}, fmt.Errorf("creating a prefix list: %w", err)
	}
	w.PrefixLists = append(w.PrefixLists, list)
	gateway, err := s.ec2.CreateTransitGateway(ctx, &ec2.CreateTransitGatewayInput{})
	if err != nil {
		return World{}, fmt.Errorf("creating a transit gateway: %w", err)
	}

	var routes []Route
	routes = append(routes, Route{Prefix: n.Peer, Target: peering.ID})
	for _, p := range n.Transit {
		routes = append(routes, Route{Prefix: p, Target: *gateway.TransitGateway.TransitGatewayId})
	}
	routes = append(routes, Route{PrefixList: list.ID, Target: *gateway.TransitGateway.TransitGatewayId})
	tables, err := s.routeTables(ctx, w.VPCs[0], subnetID, routes)
	if err != nil {
		return World{}, fmt.Errorf("creating a route table: %w", err)
	}
	w.RouteTables = append(w.RouteTables, tables...)
	return w, nil
}

func (s seeder) taggedSubnet(ctx context.Context, vpcID string, subnet Subnet) (Subnet, error) {
	spec := types.TagSpecification{ResourceType: types.ResourceTypeSubnet}
	for k, v := range subnet.Tags {
		spec.Tags = append(spec.Tags, types.Tag{Key: &k, Value: &v})
	}
	out, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{
		VpcId: &vpcID, CidrBlock: aws.String(subnet.IPv4.String()), TagSpecifications: []types.TagSpecification{spec},
	})
	if err != nil {
		return Subnet{}, err
	}
	subnet.ID, subnet.VPCID = *out.Subnet.SubnetId, vpcID
	return subnet, nil
}

func (s seeder) peering(ctx context.Context, vpc VPC, peerCIDR netip.Prefix) (Peering, error) {
	peer, err := s.vpc(ctx, Plan{CIDRs: []netip.Prefix{peerCIDR}})
	if err != nil {
		return Peering{}, err
	}
	out, err := s.ec2.CreateVpcPeeringConnection(ctx, &ec2.CreateVpcPeeringConnectionInput{VpcId: &vpc.ID, PeerVpcId: &peer.ID})
	if err != nil {
		return Peering{}, err
	}
	id := out.VpcPeeringConnection.VpcPeeringConnectionId
	_, err = s.ec2.AcceptVpcPeeringConnection(ctx, &ec2.AcceptVpcPeeringConnectionInput{VpcPeeringConnectionId: id})
	side := func(v VPC) (side PeeringSide) {
		side.VPCID = v.ID
		for _, a := range v.CIDRs {
			side.CIDRs = append(side.CIDRs, a.Prefix)
		}
		return side
	}
	return Peering{ID: *id, Requester: side(vpc), Accepter: side(peer)}, err
}

func (s seeder) prefixList(ctx context.Context, entries []Entry) (PrefixList, error) {
	in := &ec2.CreateManagedPrefixListInput{
		AddressFamily: aws.String("IPv4"), MaxEntries: aws.Int32(int32(len(entries))), PrefixListName: aws.String("network"),
	}
	for _, e := range entries {
		in.Entries = append(in.Entries, types.AddPrefixListEntry{Cidr: aws.String(e.Prefix.String()), Description: aws.String(e.Description)})
	}
	out, err := s.ec2.CreateManagedPrefixList(ctx, in)
	if err != nil {
		return PrefixList{}, err
	}
	return PrefixList{ID: *out.PrefixList.PrefixListId, Entries: entries}, nil
}

// routeTables creates a table with routes for the subnet, and returns the VPC's main
// table, which the server has created, and the new one.
func (s seeder) routeTables(ctx context.Context, vpc VPC, subnetID string, routes []Route) ([]RouteTable, error) {
	main, err := s.ec2.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
		Filters: []types.Filter{{Name: aws.String("vpc-id"), Values: []string{vpc.ID}}},
	})
	if err != nil {
		return nil, err
	}
	created, err := s.ec2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &vpc.ID})
	if err != nil {
		return nil, err
	}
	id := created.RouteTable.RouteTableId
	if _, err := s.ec2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: id, SubnetId: &subnetID}); err != nil {
		return nil, err
	}
	for _, r := range routes {
		in := &ec2.CreateRouteInput{RouteTableId: id}
		if r.PrefixList != "" {
			in.DestinationPrefixListId = &r.PrefixList
		} else {
			in.DestinationCidrBlock = aws.String(r.Prefix.String())
		}
		switch r.Target[:4] {
		case "pcx-":
			in.VpcPeeringConnectionId = &r.Target
		case "tgw-":
			in.TransitGatewayId = &r.Target
		}
		if _, err := s.ec2.CreateRoute(ctx, in); err != nil {
			return nil, err
		}
	}
	return []RouteTable{
		{ID: *main.RouteTables[0].RouteTableId, VPCID: vpc.ID, Main: true, Routes: localRoutes(main.RouteTables[0])},
		{ID: *id, VPCID: vpc.ID, Subnets: []string{subnetID}, Routes: append(localRoutes(*created.RouteTable), routes...)},
	}, nil
}

func localRoutes(t types.RouteTable) (list []Route) {
	for _, r := range t.Routes {
		cidr := aws.ToString(r.DestinationCidrBlock)
		if cidr == "" {
			cidr = aws.ToString(r.DestinationIpv6CidrBlock)
		}
		if p, err := netip.ParsePrefix(cidr); err == nil {
			list = append(list, Route{Prefix: p, Target: aws.ToString(r.GatewayId)})
		}
	}
	return list
}

// DeleteNetwork deletes the resources of SeedNetwork, without which the VPC can be deleted.
func (m *Moto) DeleteNetwork(ctx context.Context, w World) error {
	client := ec2.NewFromConfig(m.config(w.region()))
	for _, p := range w.Peerings {
		if _, err := client.DeleteVpcPeeringConnection(ctx, &ec2.DeleteVpcPeeringConnectionInput{VpcPeeringConnectionId: &p.ID}); err != nil {
			return err
		}
	}
	for _, t := range w.RouteTables {
		if t.Main {
			continue
		}
		out, err := client.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{t.ID}})
		if err != nil {
			return err
		}
		for _, a := range out.RouteTables[0].Associations {
			if _, err := client.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: a.RouteTableAssociationId}); err != nil {
				return err
			}
		}
		if _, err := client.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: &t.ID}); err != nil {
			return err
		}
	}
	for _, s := range w.Subnets {
		if _, err := client.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &s.ID}); err != nil {
			return err
		}
	}
	return nil
}
