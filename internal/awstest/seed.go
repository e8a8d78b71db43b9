package awstest

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// Plan describes the resources that [Moto.Seed] creates: one VPC and secrets.
type Plan struct {
	Region  string         // default "eu-west-1"
	CIDRs   []netip.Prefix // the VPC's IPv4 CIDRs, at least one
	IPv6    bool           // an IPv6 /56 that the server picks
	Subnets []netip.Prefix // IPv4; each gets one interface
	Secrets map[string]Secret
}

// Seed creates the resources of the plan through the AWS SDK and returns them as a
// [World] with the server's IDs: the VPC, and an interface for each subnet.
func (m *Moto) Seed(ctx context.Context, p Plan) (World, error) {
	w := World{Region: or(p.Region, "eu-west-1"), Secrets: p.Secrets}
	config := m.config(w.Region)
	s := seeder{ec2: ec2.NewFromConfig(config), secrets: secretsmanager.NewFromConfig(config)}
	vpc, err := s.vpc(ctx, p)
	if err != nil {
		return World{}, fmt.Errorf("creating the VPC: %w", err)
	}
	w.VPCs = []VPC{vpc}
	for _, cidr := range p.Subnets {
		eni, err := s.networkInterface(ctx, vpc.ID, cidr)
		if err != nil {
			return World{}, fmt.Errorf("creating subnet %s: %w", cidr, err)
		}
		w.Interfaces = append(w.Interfaces, eni)
	}
	for name, secret := range p.Secrets {
		if err := s.secret(ctx, name, secret); err != nil {
			return World{}, fmt.Errorf("creating secret %s: %w", name, err)
		}
	}
	return w, nil
}

// DeleteVPC deletes a seeded VPC with its interfaces and subnets.
func (m *Moto) DeleteVPC(ctx context.Context, w World, id string) error {
	client := ec2.NewFromConfig(m.config(w.region()))
	for _, i := range w.Interfaces {
		if i.VPCID != id {
			continue
		}
		if _, err := client.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &i.ID}); err != nil {
			return err
		}
		if _, err := client.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &i.SubnetID}); err != nil {
			return err
		}
	}
	_, err := client.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: &id})
	return err
}

func (m *Moto) config(region string) aws.Config {
	return aws.Config{
		Region:       region,
		BaseEndpoint: &m.url,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey}, nil
		}),
	}
}

type seeder struct {
	ec2     *ec2.Client
	secrets *secretsmanager.Client
}

func (s seeder) vpc(ctx context.Context, p Plan) (VPC, error) {
	created, err := s.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{
		CidrBlock:                   aws.String(p.CIDRs[0].String()),
		AmazonProvidedIpv6CidrBlock: &p.IPv6,
	})
	if err != nil {
		return VPC{}, err
	}
	id := created.Vpc.VpcId
	for _, cidr := range p.CIDRs[1:] {
		if _, err := s.ec2.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{VpcId: id, CidrBlock: aws.String(cidr.String())}); err != nil {
			return VPC{}, err
		}
	}
	described, err := s.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{*id}})
	if err != nil {
		return VPC{}, err
	}
	return vpcOf(described.Vpcs[0])
}

func vpcOf(v types.Vpc) (VPC, error) {
	vpc := VPC{ID: *v.VpcId}
	add := func(id, cidr *string, state types.VpcCidrBlockStateCode) error {
		p, err := netip.ParsePrefix(*cidr)
		vpc.CIDRs = append(vpc.CIDRs, Association{ID: *id, Prefix: p, State: string(state)})
		return err
	}
	for _, a := range v.CidrBlockAssociationSet {
		if err := add(a.AssociationId, a.CidrBlock, a.CidrBlockState.State); err != nil {
			return VPC{}, err
		}
	}
	for _, a := range v.Ipv6CidrBlockAssociationSet {
		if err := add(a.AssociationId, a.Ipv6CidrBlock, a.Ipv6CidrBlockState.State); err != nil {
			return VPC{}, err
		}
	}
	return vpc, nil
}

func (s seeder) networkInterface(ctx context.Context, vpcID string, cidr netip.Prefix) (Interface, error) {
	subnet, err := s.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &vpcID, CidrBlock: aws.String(cidr.String())})
	if err != nil {
		return Interface{}, err
	}
	out, err := s.ec2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{
		SubnetId: subnet.Subnet.SubnetId,
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeNetworkInterface, Tags: []types.Tag{{Key: aws.String("env"), Value: aws.String("prod")}},
		}},
	})
	if err != nil {
		return Interface{}, err
	}
	eni := out.NetworkInterface
	addr, err := netip.ParseAddr(aws.ToString(eni.PrivateIpAddress))
	i := Interface{
		ID: *eni.NetworkInterfaceId, MAC: *eni.MacAddress, VPCID: vpcID,
		SubnetID: *eni.SubnetId, Addresses: []netip.Addr{addr}, Tags: map[string]string{"env": "prod"}, Zone: aws.ToString(eni.AvailabilityZone),
	}
	for _, g := range eni.Groups {
		i.Groups = append(i.Groups, GroupRef{aws.ToString(g.GroupId), aws.ToString(g.GroupName)})
	}
	return i, err
}

func (s seeder) secret(ctx context.Context, name string, secret Secret) error {
	in := &secretsmanager.CreateSecretInput{Name: &name, SecretBinary: secret.Binary}
	if secret.Value != "" {
		in.SecretString, in.SecretBinary = &secret.Value, nil
	}
	if _, err := s.secrets.CreateSecret(ctx, in); err != nil {
		return err
	}
	if secret.Pending != "" {
		_, err := s.secrets.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
			SecretId: &name, SecretString: &secret.Pending, VersionStages: []string{"AWSPENDING"},
		})
		if err != nil {
			return err
		}
	}
	if secret.Deleted {
		_, err := s.secrets.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: &name})
		return err
	}
	return nil
}
