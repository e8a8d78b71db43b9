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
	Warnings []Reason      `json:"warnings,omitempty"` // what will be a reason one day
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
	Peers Peers `json:"peers"`
	// Events are the last transitions, the newest first.
	Events []Event `json:"events"`
	Limits Limits  `json:"limits"`
	// OtherRoutes are what other nodes of the tailnet serve.
	OtherRoutes []OtherRoute `json:"other_routes,omitempty"`
}

// OtherRoute is a route that another node serves.
type OtherRoute struct {
	Node   string `json:"node"`
	Prefix string `json:"prefix"`
}

// Peers are the members of the tailnet that may use this router.
type Peers struct {
	// Total counts those in the netmap, the others those by the path of packets
	// to them: to the peer itself, through another node, through a DERP server,
	// none lately.
	Total  int `json:"total"`
	Direct int `json:"direct"`
	Relay  int `json:"relay"`
	DERP   int `json:"derp"`
	Idle   int `json:"idle"`
	// List has some that this router exchanged packets with, active ones first,
	// then by bytes.
	List []Peer `json:"list"`
}

// Peer is one of them.
type Peer struct {
	Name string   `json:"name"`
	User string   `json:"user,omitempty"`
	Tags []string `json:"tags,omitempty"`
	IP   string   `json:"ip"`
	Path string   `json:"path"` // direct, relay, derp or idle
	// Via is where packets to the peer go: an address, or the DERP region's code.
	Via string `json:"via,omitempty"`
	// LatencySeconds is the last round trip measured; 0 is none yet.
	LatencySeconds float64   `json:"latency_seconds,omitempty"`
	ToPeerBytes    int64     `json:"to_peer_bytes"`
	FromPeerBytes  int64     `json:"from_peer_bytes"`
	Handshake      time.Time `json:"last_handshake,omitzero"`
}

// Event is a line of the log at level info or above, the flow log's aside.
type Event struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // INFO, WARN or ERROR
	Message string    `json:"message"`
	// Detail holds the line's attributes as name=value, in their order.
	Detail []string `json:"detail,omitempty"`
}

// Limits are what bounds the router, and how much of it is taken.
type Limits struct {
	Flows Use `json:"flows"`
	// FlowsPerPeer is of the one peer with the most flows.
	FlowsPerPeer Use `json:"flows_per_peer"`
	// MemoryBytes is what the process holds, of what the task has.
	MemoryBytes Use `json:"memory_bytes"`
	OpenFiles   Use `json:"open_files"`
}

// Use is how much of a limit is taken; a limit of 0 is none, or unknown.
type Use struct {
	Used  int64 `json:"used"`
	Limit int64 `json:"limit"`
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
