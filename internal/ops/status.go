package ops

import (
	"strings"
	"time"
)

// Status is the body of /status, and what `router status` prints. Fields are
// added, never renamed.
type Status struct {
	Version  Version       `json:"version"`
	Started  time.Time     `json:"started"`
	Ready    bool          `json:"ready"`
	Reasons  []Reason      `json:"reasons"`
	Draining bool          `json:"draining"`
	Mode     Mode          `json:"mode"`
	Place    Place         `json:"place"`
	Node     Node          `json:"node"`
	Routes   []RouteStatus `json:"routes"`
	// RoutesFound is when the routes were last looked up with success.
	RoutesFound time.Time `json:"routes_found,omitzero"`
	// RoutesError is why the last look-up failed; the routes are those found before.
	RoutesError string `json:"routes_error,omitempty"`
	// Notes are what to know about routes that are advertised all the same.
	Notes []string `json:"notes,omitempty"`
	// DNS is nil where nothing tells the VPC's resolver.
	DNS   *DNS  `json:"dns,omitempty"`
	Flows Flows `json:"flows"`
}

// DNS is what a tailnet's admin needs so that the VPC's private names resolve.
type DNS struct {
	Resolver   string `json:"resolver"`        // in the VPC
	Source     string `json:"source"`          // how it is known
	Nameserver string `json:"nameserver"`      // what clients ask: the resolver, or its 4via6 address
	Route      string `json:"route,omitempty"` // the advertised route that leads there; "" is none
	SplitDNS   string `json:"split_dns"`       // what to set, in words
	Terraform  string `json:"terraform"`       // the same as a resource
}

// Version says what runs.
type Version struct {
	Router    string `json:"router"`
	Commit    string `json:"commit"`
	Tailscale string `json:"tailscale"`
}

// Mode says how packets are forwarded, and why so.
type Mode struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Place is where the router runs, as task metadata and EC2 tell it.
type Place struct {
	Cluster    string `json:"cluster,omitempty"`
	Family     string `json:"family,omitempty"`
	TaskARN    string `json:"task_arn,omitempty"`
	LaunchType string `json:"launch_type,omitempty"`
	Region     string `json:"region,omitempty"`
	Zone       string `json:"zone,omitempty"`
	VPC        string `json:"vpc,omitempty"`
	Subnet     string `json:"subnet,omitempty"`
}

// String is the place in one line; "" outside ECS.
func (p Place) String() string {
	var parts []string
	for _, s := range []string{p.LaunchType, p.Zone, p.VPC, p.Subnet, p.Family} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}

// Node is the router as a member of the tailnet.
type Node struct {
	State     string            `json:"state"`
	Name      string            `json:"name,omitempty"`
	IPs       []string          `json:"ips"`
	KeyExpiry time.Time         `json:"key_expiry,omitzero"`
	Health    map[string]string `json:"health,omitempty"`
}

// RouteStatus is one route and how far it got.
type RouteStatus struct {
	Prefix     string `json:"prefix"`
	Source     string `json:"source,omitempty"`
	Advertised bool   `json:"advertised"`
	Approved   bool   `json:"approved"`
	Primary    bool   `json:"primary"`
	Refused    string `json:"refused,omitempty"`
}

// Flows is what is open now.
type Flows struct {
	TCP          int `json:"tcp"`
	UDP          int `json:"udp"`
	Limit        int `json:"limit"`
	LimitPerPeer int `json:"limit_per_peer"`
	// Live lists some, those that moved the most bytes first; none in kernel
	// mode, where the kernel has them.
	Live []Flow `json:"live"`
}

// Flow is one connection, or what stands for it in UDP.
type Flow struct {
	Protocol       string    `json:"protocol"`
	Client         string    `json:"client"`
	Node           string    `json:"node,omitempty"`
	Target         string    `json:"target"`
	Opened         time.Time `json:"opened"`
	ToVPCBytes     int64     `json:"to_vpc_bytes"`
	ToTailnetBytes int64     `json:"to_tailnet_bytes"`
}
