package e2e

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"subnetrouter/internal/testwait"
)

// firewall is the network of a VPC between the router's task and a target: security groups, network
// ACLs and routes exist in moto, and the namespaces drop the packets that they deny. Only this
// file knows both. The namespaces are configured from moto's answers, as AWS's data plane is from
// the same API that an operator reads.
type firewall struct {
	w                    *world
	task, target, peer   string // IDs of interfaces
	taskSubnet, dbSubnet string
	peerVPC, peerSubnet  string
	peering              string
	lists                map[string]string // IDs of prefix lists, by the names in rules
}

// rules are the configuration of one test. Of a rule of a group: "tcp 80 10.0.3.0/24", with -1 for
// any protocol, ports like 80-90, and group:task, group:db, group:other, list:with or list:without
// as the peer. Of an entry of an ACL: "100 allow in tcp 80 0.0.0.0/0"; of a route: "10.50.0.0/16
// peering", "0.0.0.0/0 internet".
type rules struct {
	taskEgress, dbIngress []string
	taskACL, dbACL        []string
	routes, peerRoutes    []string
	peering               string // "accept", "reject" or "pending"; "" is accept
}

// open returns rules that allow everything.
func open() rules {
	all := []string{"100 allow in -1 - 0.0.0.0/0", "100 allow out -1 - 0.0.0.0/0"}
	return rules{
		taskEgress: []string{"-1 - 0.0.0.0/0"}, dbIngress: []string{"-1 - 0.0.0.0/0"}, taskACL: all, dbACL: all,
		routes: []string{"10.50.0.0/16 peering"}, peerRoutes: []string{"10.0.0.0/16 peering"},
	}
}

const peerHost = "10.50.0.4"

func (w *world) newFirewall() *firewall {
	f := &firewall{w: w, task: w.aws.Interfaces[0].ID, taskSubnet: w.aws.Interfaces[0].SubnetID, lists: map[string]string{}}
	vpc := w.aws.VPCs[0].ID
	f.dbSubnet = f.one("subnetId", "CreateSubnet", "VpcId", vpc, "CidrBlock", "10.0.3.0/24")
	f.target = f.one("networkInterfaceId", "CreateNetworkInterface", "SubnetId", f.dbSubnet, "PrivateIpAddress", dbHost)
	f.peerVPC = f.one("vpcId", "CreateVpc", "CidrBlock", "10.50.0.0/16")
	f.peerSubnet = f.one("subnetId", "CreateSubnet", "VpcId", f.peerVPC, "CidrBlock", "10.50.0.0/24")
	f.peer = f.one("networkInterfaceId", "CreateNetworkInterface", "SubnetId", f.peerSubnet, "PrivateIpAddress", peerHost)
	for name, cidr := range map[string]string{"with": "10.0.0.0/16", "without": "10.99.0.0/16"} {
		f.lists[name] = f.one("prefixListId", "CreateManagedPrefixList", "PrefixListName", name, "AddressFamily", "IPv4", "MaxEntries", "5", "Entry.1.Cidr", cidr)
	}
	w.vpc.Address("lo", peerHost+"/32")
	w.serveHTTP(peerHost)
	w.vpc.IP("rule", "add", "from", peerHost, "lookup", "50")
	return f
}

// call calls EC2 in moto.
func (f *firewall) call(action string, args ...string) string {
	f.w.t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(args); i += 2 {
		form.Set(args[i], args[i+1])
	}
	req := must(http.NewRequestWithContext(testwait.Context(f.w.t), http.MethodPost, f.w.moto.URL(), strings.NewReader(form.Encode())))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/"+f.w.aws.Region+"/ec2/aws4_request, SignedHeaders=host, Signature=0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body := string(must(io.ReadAll(resp.Body)))
	if resp.StatusCode != http.StatusOK {
		f.w.t.Fatalf("%s %v: HTTP %d: %s", action, args, resp.StatusCode, body)
	}
	return body
}

// one returns the first element with a name in the answer to a call.
func (f *firewall) one(element, action string, args ...string) string {
	f.w.t.Helper()
	body := f.call(action, args...)
	m := regexp.MustCompile("<" + element + ">([^<]*)</").FindStringSubmatch(body)
	if m == nil {
		f.w.t.Fatalf("%s: no %s in %s", action, element, body)
	}
	return m[1]
}

// set replaces the configuration in moto, and then that of the namespaces.
func (f *firewall) set(r rules) {
	f.w.t.Helper()
	vpc := f.w.aws.VPCs[0].ID
	groups := map[string]string{}
	for _, name := range []string{"task", "db", "other"} {
		groups[name] = f.one("groupId", "CreateSecurityGroup", "GroupName", fmt.Sprintf("%s-%d", name, f.serial()), "GroupDescription", name, "VpcId", vpc)
		f.call("RevokeSecurityGroupEgress", "GroupId", groups[name], "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
	}
	f.call("ModifyNetworkInterfaceAttribute", "NetworkInterfaceId", f.task, "SecurityGroupId.1", groups["task"])
	f.call("ModifyNetworkInterfaceAttribute", "NetworkInterfaceId", f.target, "SecurityGroupId.1", groups["db"])
	open := f.one("groupId", "CreateSecurityGroup", "GroupName", fmt.Sprintf("peer-%d", f.serial()), "GroupDescription", "peer", "VpcId", f.peerVPC)
	f.authorize("AuthorizeSecurityGroupIngress", open, "tcp 80 10.0.0.0/16", nil)
	f.call("ModifyNetworkInterfaceAttribute", "NetworkInterfaceId", f.peer, "SecurityGroupId.1", open)
	for _, rule := range r.taskEgress {
		f.authorize("AuthorizeSecurityGroupEgress", groups["task"], rule, groups)
	}
	for _, rule := range r.dbIngress {
		f.authorize("AuthorizeSecurityGroupIngress", groups["db"], rule, groups)
	}
	f.setACL(vpc, f.taskSubnet, r.taskACL)
	f.setACL(vpc, f.dbSubnet, r.dbACL)
	f.peering = f.one("vpcPeeringConnectionId", "CreateVpcPeeringConnection", "VpcId", vpc, "PeerVpcId", f.peerVPC)
	switch r.peering {
	case "", "accept":
		f.call("AcceptVpcPeeringConnection", "VpcPeeringConnectionId", f.peering)
	case "reject":
		f.call("RejectVpcPeeringConnection", "VpcPeeringConnectionId", f.peering)
	}
	f.setTable(vpc, f.taskSubnet, r.routes)
	f.setTable(f.peerVPC, f.peerSubnet, r.peerRoutes)
	f.mirror()
}

var serial int

func (f *firewall) serial() int { serial++; return serial }

func span(text string) (from, to string) {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	return from, to
}

func (f *firewall) authorize(action, group, rule string, groups map[string]string) {
	f.w.t.Helper()
	const p = "IpPermissions.1."
	word := strings.Fields(rule)
	args := []string{"GroupId", group, p + "IpProtocol", word[0]}
	switch {
	case word[0] == "icmp":
		args = append(args, p+"FromPort", word[1], p+"ToPort", "-1")
	case word[0] != "-1":
		from, to := span(word[1])
		args = append(args, p+"FromPort", from, p+"ToPort", to)
	}
	switch kind, name, _ := strings.Cut(word[2], ":"); kind {
	case "group":
		args = append(args, p+"Groups.1.GroupId", groups[name])
	case "list":
		args = append(args, p+"PrefixListIds.1.PrefixListId", f.lists[name])
	default:
		args = append(args, p+"IpRanges.1.CidrIp", word[2])
	}
	f.call(action, args...)
}

func (f *firewall) setACL(vpc, subnet string, entries []string) {
	f.w.t.Helper()
	acl := f.one("networkAclId", "CreateNetworkAcl", "VpcId", vpc)
	for _, e := range entries {
		word := strings.Fields(e)
		args := []string{"NetworkAclId", acl, "RuleNumber", word[0], "RuleAction", word[1], "Egress", strconv.FormatBool(word[2] == "out"),
			"Protocol", map[string]string{"-1": "-1", "tcp": "6", "udp": "17", "icmp": "1"}[word[3]], "CidrBlock", word[5]}
		switch word[3] {
		case "tcp", "udp":
			from, to := span(word[4])
			args = append(args, "PortRange.From", from, "PortRange.To", to)
		case "icmp":
			args = append(args, "Icmp.Type", word[4], "Icmp.Code", "-1")
		}
		f.call("CreateNetworkAclEntry", args...)
	}
	body := f.call("DescribeNetworkAcls", "Filter.1.Name", "association.subnet-id", "Filter.1.Value.1", subnet)
	for _, m := range regexp.MustCompile(`<networkAclAssociationId>([^<]*)</networkAclAssociationId>\s*<networkAclId>[^<]*</networkAclId>\s*<subnetId>([^<]*)<`).FindAllStringSubmatch(body, -1) {
		if m[2] == subnet {
			f.call("ReplaceNetworkAclAssociation", "AssociationId", m[1], "NetworkAclId", acl)
			return
		}
	}
	f.w.t.Fatalf("no association of %s in %s", subnet, body)
}

func (f *firewall) setTable(vpc, subnet string, routes []string) {
	f.w.t.Helper()
	body := f.call("DescribeRouteTables", "Filter.1.Name", "association.subnet-id", "Filter.1.Value.1", subnet)
	if m := regexp.MustCompile(`<routeTableAssociationId>([^<]*)<`).FindStringSubmatch(body); m != nil {
		f.call("DisassociateRouteTable", "AssociationId", m[1])
	}
	table := f.one("routeTableId", "CreateRouteTable", "VpcId", vpc)
	for _, r := range routes {
		word := strings.Fields(r)
		args := []string{"RouteTableId", table, "DestinationCidrBlock", word[0]}
		switch word[1] {
		case "peering":
			args = append(args, "VpcPeeringConnectionId", f.peering)
		case "internet":
			gateway := f.one("internetGatewayId", "CreateInternetGateway")
			args = append(args, "GatewayId", gateway)
		}
		f.call("CreateRoute", args...)
	}
	f.call("AssociateRouteTable", "RouteTableId", table, "SubnetId", subnet)
}

// The parts of moto's answers that decide about packets.
type (
	mirrorGroups struct {
		Groups []struct {
			Ingress []mirrorRule `xml:"ipPermissions>item"`
			Egress  []mirrorRule `xml:"ipPermissionsEgress>item"`
		} `xml:"securityGroupInfo>item"`
	}
	mirrorRule struct {
		Protocol string   `xml:"ipProtocol"`
		From     string   `xml:"fromPort"`
		To       string   `xml:"toPort"`
		CIDRs    []string `xml:"ipRanges>item>cidrIp"`
		Groups   []string `xml:"groups>item>groupId"`
		Lists    []string `xml:"prefixListIds>item>prefixListId"`
	}
	mirrorACLs struct {
		ACLs []struct {
			Entries []mirrorEntry `xml:"entrySet>item"`
		} `xml:"networkAclSet>item"`
	}
	mirrorEntry struct {
		Number   int    `xml:"ruleNumber"`
		Protocol string `xml:"protocol"`
		Action   string `xml:"ruleAction"`
		Egress   bool   `xml:"egress"`
		CIDR     string `xml:"cidrBlock"`
		From     string `xml:"portRange>from"`
		To       string `xml:"portRange>to"`
	}
)

func (f *firewall) read(out any, action string, args ...string) {
	f.w.t.Helper()
	if err := xml.Unmarshal([]byte(f.call(action, args...)), out); err != nil {
		f.w.t.Fatal(err)
	}
}

// mirror configures the namespaces from moto's answers: iptables in that of the VPC, where all
// packets between task and target pass, and routes on both sides.
func (f *firewall) mirror() {
	f.w.t.Helper()
	var out strings.Builder
	out.WriteString("*filter\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n")
	var calls strings.Builder
	chain := func(name, hook, src, dst string, lines []string) {
		fmt.Fprintf(&out, ":%s -\n", name)
		fmt.Fprintf(&calls, "-A %s -s %s -d %s -j %s\n", hook, src, dst, name)
		for _, l := range lines {
			fmt.Fprintf(&calls, "-A %s %s\n", name, l)
		}
		fmt.Fprintf(&calls, "-A %s -j DROP\n", name)
	}
	for _, end := range []struct{ name, host, eni, subnet string }{
		{"db", dbHost, f.target, f.dbSubnet}, {"peer", peerHost, f.peer, f.peerSubnet},
	} {
		chain(end.name+"-task-acl-out", "INPUT", routerVPC, end.host, f.aclLines(f.taskSubnet, true, "-d", "--dport"))
		chain(end.name+"-acl-in", "INPUT", routerVPC, end.host, f.aclLines(end.subnet, false, "-s", "--dport"))
		chain(end.name+"-task-groups", "INPUT", routerVPC, end.host, f.groupLines(f.task, true, "-d"))
		chain(end.name+"-groups", "INPUT", routerVPC, end.host, f.groupLines(end.eni, false, "-s"))
		chain(end.name+"-acl-out", "OUTPUT", end.host, routerVPC, f.aclLines(end.subnet, true, "-d", "--dport"))
		chain(end.name+"-task-acl-in", "OUTPUT", end.host, routerVPC, f.aclLines(f.taskSubnet, false, "-s", "--dport"))
	}
	out.WriteString(calls.String() + "COMMIT\n")
	cmd := f.w.vpc.Command(testwait.Context(f.w.t), "iptables-restore")
	cmd.Stdin = strings.NewReader(out.String())
	if b, err := cmd.CombinedOutput(); err != nil {
		f.w.t.Fatalf("iptables-restore: %v: %s\n%s", err, b, out.String())
	}
	f.mirrorRoutes()
}

func (f *firewall) aclLines(subnet string, egress bool, peer, port string) (lines []string) {
	f.w.t.Helper()
	var got mirrorACLs
	f.read(&got, "DescribeNetworkAcls", "Filter.1.Name", "association.subnet-id", "Filter.1.Value.1", subnet)
	entries := got.ACLs[0].Entries
	slices.SortFunc(entries, func(a, b mirrorEntry) int { return cmp.Compare(a.Number, b.Number) })
	for _, e := range entries {
		if e.Egress != egress || e.CIDR == "" {
			continue
		}
		line := peer + " " + e.CIDR
		switch e.Protocol {
		case "6":
			line += " -p tcp -m tcp " + port + " " + e.From + ":" + e.To
		case "17":
			line += " -p udp -m udp " + port + " " + e.From + ":" + e.To
		case "1":
			line += " -p icmp" // moto forgets the type
		}
		lines = append(lines, line+" -j "+map[string]string{"allow": "RETURN", "deny": "DROP"}[e.Action])
	}
	return lines
}

func (f *firewall) groupLines(eni string, egress bool, peer string) (lines []string) {
	f.w.t.Helper()
	var ids struct {
		Groups []string `xml:"networkInterfaceSet>item>groupSet>item>groupId"`
	}
	f.read(&ids, "DescribeNetworkInterfaces", "NetworkInterfaceId.1", eni)
	var got mirrorGroups
	f.read(&got, "DescribeSecurityGroups", "GroupId.1", ids.Groups[0])
	rules := got.Groups[0].Ingress
	if egress {
		rules = got.Groups[0].Egress
	}
	for _, r := range rules {
		line := ""
		switch r.Protocol {
		case "tcp", "udp":
			line = " -p " + r.Protocol + " -m " + r.Protocol + " --dport " + r.From + ":" + r.To
		case "icmp":
			line = " -p icmp"
			if r.From != "-1" {
				line += " -m icmp --icmp-type " + r.From
			}
		}
		peers := slices.Clone(r.CIDRs)
		for _, g := range r.Groups {
			var members struct {
				Addrs []string `xml:"networkInterfaceSet>item>privateIpAddress"`
			}
			f.read(&members, "DescribeNetworkInterfaces", "Filter.1.Name", "group-id", "Filter.1.Value.1", g)
			for _, a := range members.Addrs {
				if a == f.w.aws.Interfaces[0].Addresses[0].String() {
					a = routerVPC
				}
				peers = append(peers, a)
			}
		}
		for _, l := range r.Lists {
			var entries struct {
				CIDRs []string `xml:"entrySet>item>cidr"`
			}
			f.read(&entries, "GetManagedPrefixListEntries", "PrefixListId", l)
			peers = append(peers, entries.CIDRs...)
		}
		for _, p := range peers {
			lines = append(lines, peer+" "+p+line+" -j RETURN")
		}
	}
	return lines
}

// mirrorRoutes sets the routes to the peered VPC in the router's namespace, and those back in the
// VPC's. The kernel chooses the longest.
func (f *firewall) mirrorRoutes() {
	f.w.t.Helper()
	type table struct {
		Routes []struct {
			Prefix  string `xml:"destinationCidrBlock"`
			Peering string `xml:"vpcPeeringConnectionId"`
			Gateway string `xml:"gatewayId"`
		} `xml:"routeTableSet>item>routeSet>item"`
	}
	var status struct {
		Code string `xml:"vpcPeeringConnectionSet>item>status>code"`
	}
	f.read(&status, "DescribeVpcPeeringConnections", "VpcPeeringConnectionId.1", f.peering)
	read := func(subnet string) (t table) {
		f.read(&t, "DescribeRouteTables", "Filter.1.Name", "association.subnet-id", "Filter.1.Value.1", subnet)
		return t
	}
	run := func(h interface{ IP(...string) }, args ...string) { h.IP(args...) }
	run(f.w.routerHost, "route", "replace", "blackhole", "10.50.0.0/16")
	for _, r := range read(f.taskSubnet).Routes {
		if r.Peering != "" && status.Code == "active" {
			run(f.w.routerHost, "route", "delete", "blackhole", "10.50.0.0/16")
			run(f.w.routerHost, "route", "add", r.Prefix, "via", gatewayVPC)
		}
	}
	run(f.w.vpc, "route", "replace", "blackhole", "default", "table", "50")
	run(f.w.vpc, "route", "flush", "table", "50")
	run(f.w.vpc, "route", "add", "blackhole", "default", "table", "50")
	for _, r := range read(f.peerSubnet).Routes {
		if p, err := netip.ParsePrefix(r.Prefix); err == nil && r.Peering != "" && p.Addr().Is4() {
			run(f.w.vpc, "route", "add", r.Prefix, "dev", "eth0", "table", "50")
		}
	}
}
