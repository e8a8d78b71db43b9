package access

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Policy holds the rules that the grants to one client add up to. It does not change.
type Policy struct {
	rules    []Rule
	problems []string
}

// Rule allows flows to the targets that match all of its fields. A nil field matches every target.
type Rule struct {
	text         string
	vpcs, groups *names
	tags         []tag // all of them
	cidrs        []netip.Prefix
	ports        ports
}

// String returns the rule as JSON.
func (r *Rule) String() string { return r.text }

type tag struct{ key, value string }

// Bounds of a policy. Values beyond them allow nothing.
const (
	maxRules     = 1000
	maxValue     = 16 << 10 // bytes of one value
	maxItems     = 256      // of one field
	maxText      = 256      // bytes of a name
	maxRuleShown = 300      // bytes of a rule in logs
)

// Parse reads the values of the capability that the grants to a client have, each of which is a rule. A value with
// an error allows nothing, and [Policy.Problems] has the error.
func Parse(values []string) *Policy {
	p := &Policy{}
	if more := len(values) - maxRules; more > 0 {
		values = values[:maxRules]
		p.problems = append(p.problems, fmt.Sprintf("the client has %d rules: the last %d are ignored; merge rules", maxRules+more, more))
	}
	for _, v := range values {
		r, err := parseRule(v)
		if err != nil {
			p.problems = append(p.problems, fmt.Sprintf("rule %s is ignored: %v", shown(v), err))
			continue
		}
		p.rules = append(p.rules, r)
	}
	return p
}

// Problems describes the values that are ignored.
func (p *Policy) Problems() []string {
	if p == nil {
		return nil
	}
	return p.problems
}

// Len returns the number of rules.
func (p *Policy) Len() int {
	if p == nil {
		return 0
	}
	return len(p.rules)
}

// shown returns a value for a log or an error: its beginning, without control characters.
func shown(v string) string {
	v = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(v, "?"))
	if len(v) > maxRuleShown {
		v = strings.ToValidUTF8(v[:maxRuleShown], "") + "…"
	}
	return v
}

// parseRule reads one value. An unknown field, a field that is there twice and one without elements are errors:
// each might have been meant to restrict the rule.
func parseRule(value string) (r Rule, err error) {
	if len(value) > maxValue {
		return r, fmt.Errorf("it is longer than %d bytes", maxValue)
	}
	var fields map[string]jsontext.Value
	if err := json.Unmarshal([]byte(value), &fields); err != nil || fields == nil {
		return r, errors.New("it is not a JSON object with each field once")
	}
	r.ports = everyPort
	for _, name := range sortedKeys(fields) {
		raw := fields[name]
		switch name {
		case "vpcs":
			r.vpcs, err = parseNames(raw, isVPC)
		case "securityGroups":
			r.groups, err = parseNames(raw, isName)
		case "tags":
			r.tags, err = parseTags(raw)
		case "cidrs":
			r.cidrs, err = parseList(raw, parseCIDR)
		case "ports":
			r.ports, err = parsePorts(raw)
		default:
			err = errors.New("there is no such field: use vpcs, securityGroups, tags, cidrs and ports")
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", shown(name), err)
		}
	}
	if r.vpcs == nil && r.groups == nil && r.tags == nil && r.cidrs == nil {
		return r, errors.New("it names no target: add securityGroups, tags, vpcs or cidrs")
	}
	compact := jsontext.Value(value).Clone()
	if compact.Compact() == nil {
		value = string(compact)
	}
	r.text = shown(value)
	return r, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// parseList reads a list of strings that has an element.
func parseList[T any](raw jsontext.Value, parse func(string) (T, error)) (list []T, err error) {
	var texts []string
	if raw.Kind() != '[' || json.Unmarshal(raw, &texts) != nil || slices.Contains(kinds(raw), 'n') {
		return nil, errors.New("write a list of strings")
	}
	if len(texts) == 0 || len(texts) > maxItems {
		return nil, fmt.Errorf("the list has %d elements: use 1 to %d", len(texts), maxItems)
	}
	for _, s := range texts {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// kinds returns the kinds of the elements of a list or an object: null would be read as "".
func kinds(raw jsontext.Value) (list []jsontext.Kind) {
	d := jsontext.NewDecoder(strings.NewReader(string(raw)))
	for {
		t, err := d.ReadToken()
		if err != nil {
			return list
		}
		list = append(list, t.Kind())
	}
}

// names is a set of names, of which a decision looks up several in each rule: few are compared one by one, most often by
// their lengths only, which costs less than hashing.
type names struct {
	few  []string
	many map[string]struct{} // nil if there are few
}

const fewNames = 8

func newNames(list []string) *names {
	if len(list) <= fewNames {
		return &names{few: list}
	}
	n := &names{many: make(map[string]struct{}, len(list))}
	for _, s := range list {
		n.many[s] = struct{}{}
	}
	return n
}

func (n *names) has(name string) bool {
	if n.many != nil {
		_, has := n.many[name]
		return has
	}
	return slices.Contains(n.few, name)
}

func parseNames(raw jsontext.Value, parse func(string) (string, error)) (*names, error) {
	list, err := parseList(raw, parse)
	if err != nil {
		return nil, err
	}
	return newNames(list), nil
}

func isName(s string) (string, error) {
	if s == "" || len(s) > maxText {
		return "", fmt.Errorf("%q is not the ID or name of a security group", shown(s))
	}
	return s, nil
}

func isVPC(s string) (string, error) {
	if !strings.HasPrefix(s, "vpc-") || len(s) > maxText {
		return "", fmt.Errorf("%q is not the ID of a VPC, such as vpc-0a1b2c3d", shown(s))
	}
	return s, nil
}

func parseTags(raw jsontext.Value) (list []tag, err error) {
	var tags map[string]string
	if raw.Kind() != '{' || json.Unmarshal(raw, &tags) != nil || slices.Contains(kinds(raw), 'n') {
		return nil, errors.New("write an object of strings")
	}
	if len(tags) == 0 || len(tags) > maxItems {
		return nil, fmt.Errorf("the object has %d tags: use 1 to %d", len(tags), maxItems)
	}
	for _, key := range sortedKeys(tags) {
		if key == "" || len(key) > maxText || len(tags[key]) > 4*maxText {
			return nil, fmt.Errorf("%q is not the key of a tag", shown(key))
		}
		list = append(list, tag{key, tags[key]})
	}
	return list, nil
}

func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, failed := netip.ParseAddr(s); failed == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q is not a CIDR such as 10.9.0.0/16", shown(s))
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits behind its prefix length: use %s", shown(s), p.Masked())
	}
	return p, nil
}

// ports are the ports of each protocol that a rule allows.
type ports [protocolCount][]portRange

type portRange struct{ first, last uint16 }

var everyPort = ports{{{0, 65535}}, {{0, 65535}}, {{0, 65535}}}

func (p *ports) has(f Flow) bool {
	if f.Protocol == ICMP {
		return len(p[ICMP]) > 0
	}
	port := f.Target.Port()
	for _, r := range p[f.Protocol] {
		if r.first <= port && port <= r.last {
			return true
		}
	}
	return false
}

// service is one element of "ports".
type service struct {
	protocols []Protocol
	portRange
}

func parsePorts(raw jsontext.Value) (p ports, err error) {
	list, err := parseList(raw, parseService)
	if err != nil {
		return p, err
	}
	for _, s := range list {
		for _, protocol := range s.protocols {
			p[protocol] = append(p[protocol], s.portRange)
		}
	}
	return p, nil
}

// parseService reads "tcp:5432", "udp:8000-8999", "tcp:*", "icmp:*" or "*".
func parseService(s string) (service, error) {
	if s == "*" {
		return service{[]Protocol{TCP, UDP, ICMP}, portRange{0, 65535}}, nil
	}
	malformed := fmt.Errorf("%q is not a port: write tcp:5432, udp:8000-8999, tcp:*, icmp:* or *", shown(s))
	name, numbers, _ := strings.Cut(s, ":")
	protocol := Protocol(slices.Index(protocolNames[:], name)) // -1 is none
	if protocol >= protocolCount {
		return service{}, malformed
	}
	if numbers == "*" {
		return service{[]Protocol{protocol}, portRange{0, 65535}}, nil
	}
	low, high, isRange := strings.Cut(numbers, "-")
	if !isRange {
		high = low
	}
	first, ok1 := parsePort(low)
	last, ok2 := parsePort(high)
	if protocol == ICMP || !ok1 || !ok2 || first > last {
		return service{}, malformed
	}
	return service{[]Protocol{protocol}, portRange{first, last}}, nil
}

func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && s[0] != '0' && s[0] != '+'
}
