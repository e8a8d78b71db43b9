package awstest

import (
	"encoding/xml"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const ec2API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/"

var ec2Rules = []Rule{
	{
		Name:     "security group: not deleted while in use",
		Sentence: "Deleting a group fails with DependencyViolation while an instance, a network interface or another group refers to it.",
		Source:   ec2API + "API_DeleteSecurityGroup.html",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ec2", "DeleteSecurityGroup") {
				return nil
			}
			if id := c.form.Get("GroupId"); s.usesGroup(c, id) {
				return refuse("DependencyViolation", "resource %s has a dependent object", id)
			}
			return nil
		},
	},
	{
		Name:     "interface endpoint: one subnet per zone",
		Sentence: "An interface endpoint can have only one subnet in each availability zone.",
		Source:   "https://github.com/terraform-aws-modules/terraform-aws-vpc/issues/451",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ec2", "CreateVpcEndpoint") || c.form.Get("VpcEndpointType") != "Interface" {
				return nil
			}
			seen := map[string]bool{}
			for _, subnet := range s.subnets(c, list(c.form, "SubnetId")) {
				if seen[subnet.Zone] {
					return refuse("DuplicateSubnetsInSameZone", "Found another VPC endpoint subnet in the availability zone of %s", subnet.ID)
				}
				seen[subnet.Zone] = true
			}
			return nil
		},
	},
	{
		Name:     "interface endpoint: private DNS needs the VPC's",
		Sentence: "Private DNS of an endpoint needs both enableDnsSupport and enableDnsHostnames of the VPC.",
		Source:   ec2API + "API_CreateVpcEndpoint.html",
		before: func(s *Strict, c *call) *refusal {
			if !c.is("ec2", "CreateVpcEndpoint") || c.form.Get("PrivateDnsEnabled") != "true" {
				return nil
			}
			for _, attribute := range []string{"enableDnsSupport", "enableDnsHostnames"} {
				var answer struct {
					Support   string `xml:"enableDnsSupport>value"`
					Hostnames string `xml:"enableDnsHostnames>value"`
				}
				vpc := c.form.Get("VpcId")
				s.query(c, url.Values{"Action": {"DescribeVpcAttribute"}, "VpcId": {vpc}, "Attribute": {attribute}}, &answer)
				if answer.Support+answer.Hostnames != "true" {
					return refuse("InvalidParameter", "Enabling private DNS requires both enableDnsSupport and enableDnsHostnames VPC attributes set to true for %s", vpc)
				}
			}
			return nil
		},
	},
	{
		Name:     "shared VPC: participants do not see the owner's tags",
		Sentence: "The tags of a shared VPC, and of the resources in it, are visible to the owner's account only.",
		Source:   "https://docs.aws.amazon.com/vpc/latest/userguide/vpc-sharing.html, quoted in https://github.com/aws/karpenter-provider-aws/issues/1368",
		before: func(s *Strict, c *call) *refusal {
			if !s.sharing() || !c.is("ec2", "DescribeVpcs", "DescribeSubnets") {
				return nil
			}
			for key, name := range c.form {
				if strings.HasPrefix(key, "Filter.") && strings.HasPrefix(name[0], "tag:") {
					c.form.Set(strings.TrimSuffix(key, ".Name")+".Value.1", "a value that no tag has")
				}
			}
			return nil
		},
		after: func(s *Strict, c *call) {
			if s.sharing() && c.is("ec2", "DescribeVpcs", "DescribeSubnets") {
				c.text = tagSet.ReplaceAllString(c.text, "")
			}
		},
	},
	{
		Name:     "shared VPC: only the owner creates endpoints",
		Sentence: "The owner of a shared VPC creates its gateway and interface endpoints; a participant creates only resources such as network interfaces and security groups.",
		Source:   "https://docs.aws.amazon.com/vpc/latest/userguide/vpc-share-limitations.html",
		before: func(s *Strict, c *call) *refusal {
			if s.sharing() && c.is("ec2", "CreateVpcEndpoint") {
				return refuse("OperationNotPermitted", "You do not own the VPC %s", c.form.Get("VpcId"))
			}
			return nil
		},
	},
}

var tagSet = regexp.MustCompile(`(?s)<tagSet>.*?</tagSet>`)

// ShareVPCs makes every VPC belong to another account, which shares it with this one.
func (s *Strict) ShareVPCs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shared = true
}

func (s *Strict) sharing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shared
}

// describeRules stores the descriptions of rules that refer to a security group, and adds
// them to answers.
func describeRules(s *Strict, c *call) {
	if c.service != "ec2" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c.action {
	case "AuthorizeSecurityGroupIngress", "AuthorizeSecurityGroupEgress":
		if text := c.form.Get("IpPermissions.1.Groups.1.Description"); text != "" {
			for _, id := range ruleID.FindAllStringSubmatch(c.text, -1) {
				s.descriptions[id[1]] = text
			}
		}
	case "ModifySecurityGroupRules":
		delete(s.descriptions, c.form.Get("SecurityGroupRule.1.SecurityGroupRuleId")) // moto stores it in this case
	case "DescribeSecurityGroupRules":
		c.text = ruleID.ReplaceAllStringFunc(c.text, func(element string) string {
			text, ok := s.descriptions[ruleID.FindStringSubmatch(element)[1]]
			if !ok {
				return element
			}
			var escaped strings.Builder
			_ = xml.EscapeText(&escaped, []byte(text))
			return element + "<description>" + escaped.String() + "</description>"
		})
	}
}

// list returns the values of a form's NAME.1, NAME.2 and so on.
func list(form url.Values, name string) (all []string) {
	for i := 1; form.Get(name+"."+strconv.Itoa(i)) != ""; i++ {
		all = append(all, form.Get(name+"."+strconv.Itoa(i)))
	}
	return all
}

type subnet struct {
	ID   string `xml:"subnetId"`
	Zone string `xml:"availabilityZone"`
}

func (s *Strict) subnets(c *call, ids []string) []subnet {
	form := url.Values{"Action": {"DescribeSubnets"}}
	for i, id := range ids {
		form.Set("SubnetId."+strconv.Itoa(i+1), id)
	}
	var answer struct {
		Subnets []subnet `xml:"subnetSet>item"`
	}
	s.query(c, form, &answer)
	return answer.Subnets
}

var ruleID = regexp.MustCompile(`<securityGroupRuleId>([^<]+)</securityGroupRuleId>`)

// usesGroup reports whether a task, an endpoint, a mount target or a rule of
// another group names the security group.
func (s *Strict) usesGroup(c *call, id string) bool {
	s.mu.Lock()
	for _, service := range s.services {
		if slices.Contains(service.arguments.object("networkConfiguration").object("awsvpcConfiguration").texts("securityGroups"), id) {
			s.mu.Unlock()
			return true
		}
	}
	s.mu.Unlock()

	var endpoints struct {
		Endpoints []struct {
			State  string   `xml:"state"`
			Groups []string `xml:"groupSet>item>groupId"`
		} `xml:"vpcEndpointSet>item"`
	}
	s.query(c, url.Values{"Action": {"DescribeVpcEndpoints"}}, &endpoints)
	for _, e := range endpoints.Endpoints {
		if e.State != "deleted" && slices.Contains(e.Groups, id) {
			return true
		}
	}
	var interfaces struct {
		IDs []string `xml:"networkInterfaceSet>item>networkInterfaceId"`
	}
	s.query(c, url.Values{"Action": {"DescribeNetworkInterfaces"}, "Filter.1.Name": {"group-id"}, "Filter.1.Value.1": {id}}, &interfaces)
	if len(interfaces.IDs) > 0 {
		return true
	}
	var groups struct {
		Groups []struct {
			ID    string   `xml:"groupId"`
			Rules []string `xml:"ipPermissions>item>groups>item>groupId"`
		} `xml:"securityGroupInfo>item"`
	}
	s.query(c, url.Values{"Action": {"DescribeSecurityGroups"}}, &groups)
	for _, g := range groups.Groups {
		if g.ID != id && slices.Contains(g.Rules, id) {
			return true
		}
	}
	return false
}

// query calls EC2 in moto. If the call fails, out stays as it is.
func (s *Strict) query(c *call, form url.Values, out any) {
	form.Set("Version", "2016-11-15")
	var answer string
	if s.ask(c, "ec2", "", form, nil, &answer) == nil {
		_ = xml.Unmarshal([]byte(answer), out)
	}
}
