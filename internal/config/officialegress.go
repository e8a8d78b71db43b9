package config

import (
	"errors"
	"fmt"
	"net/netip"
)

// egressByOfficial are the variables of the official image that become ROUTER_EGRESS.
var egressByOfficial = []struct {
	name, how string // how is the value of ROUTER_EGRESS, for the documentation
	check     func(value string) error
}{
	{"TS_TAILNET_TARGET_IP", "`*=IP`, all ports; it needs `TS_USERSPACE=false`, as in the official image", func(value string) error {
		if a, err := netip.ParseAddr(value); err != nil || a.Zone() != "" {
			return fmt.Errorf("%s is not an address: write one such as 100.101.102.103", quote(value))
		}
		return nil
	}},
	{"TS_TAILNET_TARGET_FQDN", "`*=NAME`, all ports, of IPv6 too; it needs `TS_USERSPACE=false`, as in the official image", func(value string) error {
		if !validDomain(value) {
			return fmt.Errorf("%s is not a name: write one such as db.example.ts.net", quote(value))
		}
		return nil
	}},
}

// egressAliases returns the names of egressByOfficial.
func egressAliases() (names []string) {
	for _, v := range egressByOfficial {
		names = append(names, v.name)
	}
	return names
}

// setEgress also reads the variables of egressByOfficial.
func setEgress(c *Config, name, value string) error {
	for _, v := range egressByOfficial {
		if v.name != name {
			continue
		}
		if err := v.check(value); err != nil {
			return err
		}
		c.Egress, c.EgressAll = nil, value
		return nil
	}
	list, err := parseEgress(value)
	if err != nil {
		return err
	}
	var ports []EgressPort
	all := ""
	for _, p := range list {
		switch {
		case p.Listen != "":
			ports = append(ports, p)
		case all != "" && all != p.Target:
			return errors.New("all other ports have two targets: keep one")
		default:
			all = p.Target
		}
	}
	c.Egress, c.EgressAll = ports, all
	return nil
}
