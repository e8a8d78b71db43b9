package ecsmeta

import (
	"errors"
	"fmt"
	"net/netip"
)

// The fields of the endpoint's JSON that the router reads. AWS adds fields over time and omits
// those without a value.

type wireTask struct {
	Cluster          string
	TaskARN          string
	Family           string
	Revision         string
	ServiceName      string
	LaunchType       string
	AvailabilityZone string
	VPCID            string
	Limits           wireLimits // CPU in vCPUs, Memory in MiB
}

type wireContainer struct {
	DockerID     string `json:"DockerId"`
	ContainerARN string
	Limits       wireLimits // CPU in shares, which bound nothing; Memory in MiB
	Networks     []wireNetwork
}

type wireLimits struct {
	CPU    float64
	Memory int
}

type wireNetwork struct {
	NetworkMode         string
	MACAddress          string
	AttachmentIndex     int
	IPv4Addresses       []string
	IPv6Addresses       []string
	IPv4SubnetCIDRBlock string
	IPv6SubnetCIDRBlock string
	DomainNameServers   []string
}

var errNoNetworks = errors.New("the answer has no Networks")

func merge(c wireContainer, t wireTask) (Task, error) {
	network, err := c.network()
	if err != nil {
		return Task{}, err
	}
	return Task{
		Cluster:    t.Cluster,
		ARN:        t.TaskARN,
		Family:     t.Family,
		Revision:   t.Revision,
		Service:    t.ServiceName,
		LaunchType: t.LaunchType,
		Zone:       t.AvailabilityZone,
		Region:     region(t.TaskARN, t.AvailabilityZone),
		VPCID:      t.VPCID,

		ContainerID:  c.DockerID,
		ContainerARN: c.ContainerARN,
		Limits: Limits{
			CPU:       t.Limits.CPU,
			MemoryMiB: smallerLimit(t.Limits.Memory, c.Limits.Memory),
		},
		Network: network,
	}, nil
}

func (c wireContainer) network() (Network, error) {
	if len(c.Networks) == 0 {
		return Network{}, errNoNetworks
	}
	w := c.Networks[0]
	n := Network{Mode: w.NetworkMode, MAC: w.MACAddress, AttachmentIndex: w.AttachmentIndex}
	var errs [5]error
	n.IPv4, errs[0] = addrs("IPv4Addresses", w.IPv4Addresses)
	n.IPv6, errs[1] = addrs("IPv6Addresses", w.IPv6Addresses)
	n.DNS, errs[2] = addrs("DomainNameServers", w.DomainNameServers)
	n.IPv4Subnet, errs[3] = prefix("IPv4SubnetCIDRBlock", w.IPv4SubnetCIDRBlock)
	n.IPv6Subnet, errs[4] = prefix("IPv6SubnetCIDRBlock", w.IPv6SubnetCIDRBlock)
	return n, errors.Join(errs[:]...)
}

// addrs parses addresses. It skips empty entries, such as the one that the agent reports in
// host mode.
func addrs(field string, list []string) ([]netip.Addr, error) {
	var as []netip.Addr
	for _, s := range list {
		if s == "" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("parsing %s: %w", field, err)
		}
		as = append(as, a)
	}
	return as, nil
}

func prefix(field, s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("parsing %s: %w", field, err)
	}
	return p.Masked(), nil
}

func smallerLimit(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
