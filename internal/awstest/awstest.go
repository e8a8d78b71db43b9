// Package awstest provides AWS endpoints over HTTP for tests and the sandbox: the calls
// to AWS and the task metadata endpoint that the router makes, in AWS's formats.
//
// [Server] answers from a declared [World] and fails on demand; [Metadata] is the task
// metadata endpoint of a declared [Task]; [Moto] runs the moto_server program, an
// independent implementation that a test compares the [Server] with. None needs a
// *testing.T: a function that returns an error starts it, and Close stops it. Their Env
// methods return the environment variables that point the router to them.
package awstest

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// World holds the contents of an AWS account in one region; other regions are empty.
type World struct {
	Region     string            // default "eu-west-1"
	Account    string            // default "123456789012"
	Secrets    map[string]Secret // by name
	VPCs       []VPC
	Interfaces []Interface

	Instances map[string]map[string]string // the tags of instances, by ID

	Subnets     []Subnet
	RouteTables []RouteTable
	Peerings    []Peering
	PrefixLists []PrefixList

	SecurityGroups []SecurityGroup
	NetworkACLs    []NetworkACL

	Databases     []Database
	DBClusters    []DatabaseCluster
	Proxies       []DatabaseProxy
	LoadBalancers []LoadBalancer

	HostedZones   []HostedZone
	ResolverRules []ResolverRule
	Profiles      []Profile

	Tables     map[string]Table     // by name; their items are the [Server]'s
	Parameters map[string]Parameter // by name: "/router/key"
	Keys       []Key
	Clusters   map[string]Cluster // by name

	// PageSize limits the items in a page of a paginated answer, unless the caller
	// requests fewer; 0 is no limit.
	PageSize int
}

// Secret is a secret with one current version, and perhaps a pending one. With neither
// Value nor Binary it has no current version.
type Secret struct {
	Value   string // SecretString
	Binary  []byte // SecretBinary, if Value is ""
	Pending string // the SecretString of version stage AWSPENDING, if not ""
	Deleted bool   // marked for deletion
	Created time.Time
}

// VPC is a VPC with its CIDRs, IPv4 and IPv6.
type VPC struct {
	ID    string
	CIDRs []Association

	NoDNS       bool     // enableDnsSupport is off
	Hostnames   bool     // enableDnsHostnames is on
	DHCPOptions string   // the ID of its DHCP option set; default: one
	DHCPServers []string // the DNS servers of that; nil means AmazonProvidedDNS
}

// Association is a VPC's CIDR.
type Association struct {
	ID     string
	Prefix netip.Prefix
	State  string // default "associated"
}

// Interface is a network interface.
type Interface struct {
	ID, MAC, VPCID, SubnetID string
	Addresses                []netip.Addr   // the first IPv4 one is primary
	Prefixes                 []netip.Prefix // delegated
	Groups                   []GroupRef
	Tags                     map[string]string
	Instance                 string // that it is attached to
	Type                     string // default "interface"
	Zone                     string // its availability zone; "" if no test needs it
}

// GroupRef names a security group.
type GroupRef struct{ ID, Name string }

// Subnet is a subnet; those of [Interface] need not be listed.
type Subnet struct {
	ID, VPCID string
	IPv4      netip.Prefix // zero: an IPv6-only subnet
	IPv6      []Association
	Tags      map[string]string
}

// RouteTable is a route table. The main one applies to the VPC's subnets without another,
// any other to Subnets.
type RouteTable struct {
	ID, VPCID string
	Main      bool
	Subnets   []string
	Routes    []Route
}

// Route is a route to PrefixList, if not "", or else to Prefix. The form of Target
// ("pcx-...", "tgw-...", "local") determines its kind.
type Route struct {
	Prefix     netip.Prefix
	PrefixList string
	Target     string
	Blackhole  bool
}

// Peering is a VPC peering connection.
type Peering struct {
	ID                  string
	Status              string // default "active"
	Requester, Accepter PeeringSide
}

// PeeringSide is a VPC of a peering. Without CIDRs, answers do not contain any.
type PeeringSide struct {
	VPCID string
	CIDRs []netip.Prefix
}

// PrefixList is a managed prefix list, of the customer or of AWS.
type PrefixList struct {
	ID      string
	Entries []Entry
}

// Entry is an entry of a prefix list.
type Entry struct {
	Prefix      netip.Prefix
	Description string
}

func (w World) region() string  { return or(w.Region, "eu-west-1") }
func (w World) account() string { return or(w.Account, "123456789012") }

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// listener is an HTTP server on one address.
type listener struct {
	url string
	srv *http.Server
}

// listen serves h on addr; "" means a free port on loopback.
func listen(addr string, h http.Handler) (*listener, error) {
	ln, err := net.Listen("tcp", or(addr, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	l := &listener{url: "http://" + ln.Addr().String(), srv: &http.Server{Handler: h}}
	go l.srv.Serve(ln)
	return l, nil
}

// URL is the server's address, without a trailing slash.
func (l *listener) URL() string { return l.url }

// Close stops the server and closes its connections.
func (l *listener) Close() error { return l.srv.Close() }

// Credentials to sign with. The servers do not verify signatures.
const (
	accessKeyID     = "AKIAIOSFODNN7EXAMPLE"
	secretAccessKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// env returns the SDK's environment for an endpoint. It hides the machine's AWS
// configuration.
func env(url, region string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL":            url,
		"AWS_REGION":                  region,
		"AWS_ACCESS_KEY_ID":           accessKeyID,
		"AWS_SECRET_ACCESS_KEY":       secretAccessKey,
		"AWS_EC2_METADATA_DISABLED":   "true",
		"AWS_CONFIG_FILE":             "/nonexistent",
		"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	}
}

// Setenv sets the environments for the rest of the test; of two values the last wins.
func Setenv(t testing.TB, envs ...map[string]string) {
	t.Helper()
	for _, env := range envs {
		for k, v := range env {
			t.Setenv(k, v)
		}
	}
}
