package awstest

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/route53/types"
	"github.com/aws/aws-sdk-go-v2/service/route53resolver"
	resolvertypes "github.com/aws/aws-sdk-go-v2/service/route53resolver/types"
)

// SeedZone creates a private hosted zone and a resolver rule for the first VPC, gives that VPC names of instances
// and a DNS server in its DHCP options, and returns w with them.
func (m *Moto) SeedZone(ctx context.Context, w World, name, server string) (World, error) {
	vpc := &w.VPCs[0]
	out, err := route53.NewFromConfig(m.config(w.region())).CreateHostedZone(ctx, &route53.CreateHostedZoneInput{
		Name: &name, CallerReference: aws.String("seed"), VPC: &types.VPC{VPCId: &vpc.ID, VPCRegion: types.VPCRegion(w.region())},
		HostedZoneConfig: &types.HostedZoneConfig{PrivateZone: true},
	})
	if err != nil {
		return World{}, fmt.Errorf("creating a hosted zone: %w", err)
	}
	w.HostedZones = append(w.HostedZones, HostedZone{ID: zoneID(*out.HostedZone.Id), Name: *out.HostedZone.Name, VPCs: []string{vpc.ID}})

	resolver := route53resolver.NewFromConfig(m.config(w.region()))
	domain := "corp." + name
	rule, err := resolver.CreateResolverRule(ctx, &route53resolver.CreateResolverRuleInput{
		CreatorRequestId: aws.String("seed"), DomainName: &domain, RuleType: resolvertypes.RuleTypeOptionForward,
		TargetIps: []resolvertypes.TargetAddress{{Ip: &server, Port: aws.Int32(53)}},
	})
	if err != nil {
		return World{}, fmt.Errorf("creating a resolver rule: %w", err)
	}
	if _, err := resolver.AssociateResolverRule(ctx, &route53resolver.AssociateResolverRuleInput{ResolverRuleId: rule.ResolverRule.Id, VPCId: &vpc.ID}); err != nil {
		return World{}, fmt.Errorf("associating a resolver rule: %w", err)
	}
	w.ResolverRules = append(w.ResolverRules, ResolverRule{ID: *rule.ResolverRule.Id, Domain: *rule.ResolverRule.DomainName, VPCs: []string{vpc.ID}})

	client := ec2.NewFromConfig(m.config(w.region()))
	if _, err := client.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{VpcId: &vpc.ID, EnableDnsHostnames: &ec2types.AttributeBooleanValue{Value: aws.Bool(true)}}); err != nil {
		return World{}, fmt.Errorf("setting enableDnsHostnames: %w", err)
	}
	options, err := client.CreateDhcpOptions(ctx, &ec2.CreateDhcpOptionsInput{
		DhcpConfigurations: []ec2types.NewDhcpConfiguration{{Key: aws.String("domain-name-servers"), Values: []string{server}}},
	})
	if err != nil {
		return World{}, fmt.Errorf("creating DHCP options: %w", err)
	}
	if _, err := client.AssociateDhcpOptions(ctx, &ec2.AssociateDhcpOptionsInput{DhcpOptionsId: options.DhcpOptions.DhcpOptionsId, VpcId: &vpc.ID}); err != nil {
		return World{}, fmt.Errorf("associating DHCP options: %w", err)
	}
	vpc.Hostnames, vpc.DHCPOptions, vpc.DHCPServers = true, *options.DhcpOptions.DhcpOptionsId, []string{server}
	return w, nil
}

// zoneID returns the ID of a hosted zone without the path before it.
func zoneID(id string) string {
	const path = "/hostedzone/"
	return id[len(path):]
}
