package ops

import (
	"strings"
	"time"
)

// Status is the body of /status and the input of `router status`. Fields may be added, but
// not renamed.
type Status struct {
	Version  Version       `json:"version"`
	Started  time.Time     `json:"started"`
	Ready    bool          `json:"ready"`
	Reasons  []Reason      `json:"reasons"`
	Warnings []Reason      `json:"warnings,omitempty"` // conditions that will become reasons
	Draining bool          `json:"draining"`
	Mode     Mode          `json:"mode"`
	Place    Place         `json:"place"`
	Node     Node          `json:"node"`
	Identity Identity      `json:"identity"`
	Routes   []RouteStatus `json:"routes"`
	Roles    []Role        `json:"roles,omitempty"` // those that are on
	// RoutesFound is the time of the last successful look-up of the routes.
	RoutesFound time.Time `json:"routes_found,omitzero"`
	// RoutesError is the error of the newest look-up, if it failed. Routes are then those
	// of the last successful one.
	RoutesError string `json:"routes_error,omitempty"`
	// Notes are caveats about advertised routes.
	Notes []string `json:"notes,omitempty"`
	// DNS is nil if the VPC's resolver is not known.
	DNS             *DNS            `json:"dns,omitempty"`
	DNSRegistration DNSRegistration `json:"dns_registration"`
	Access          *Access         `json:"access,omitempty"` // nil with ROUTER_ACCESS=off

	Flows Flows `json:"flows"`
	// Egress is nil unless the router has listeners for programs of the VPC.
	Egress *Egress `json:"egress,omitempty"`
	Peers  Peers   `json:"peers"`
	// Events are the last lines of the event log, the newest first.
	Events []Event `json:"events"`
	Limits Limits  `json:"limits"`
	// OtherRoutes are routes that other nodes of the tailnet serve.
	OtherRoutes []OtherRoute `json:"other_routes,omitempty"`
}

// Access describes the decisions of ROUTER_ACCESS.
type Access struct {
	Mode string `json:"mode"` // report or grants
	// Targets is the number of network interfaces that the last successful look-up found, at the
	// time LookedUp. Error is that of the newest look-up, if it failed.
	Targets  int       `json:"targets"`
	LookedUp time.Time `json:"looked_up,omitzero"`
	Error    string    `json:"error,omitempty"`
	// Peers is the number of peers to which grants give rules, and Rules that of different rules,
	// without those that are ignored because of an error (Malformed).
	Peers     int `json:"peers"`
	Rules     int `json:"rules"`
	Malformed int `json:"malformed_rules"`
	// Allowed and Denied count the decisions since the start; with Mode report, denied flows are let
	// through.
	Allowed int64 `json:"allowed"`
	Denied  int64 `json:"denied"`
	// Denials are the last ones in the log, the newest first.
	Denials []Denial `json:"denials,omitempty"`
}

// Denial is a flow that no rule allows.
type Denial struct {
	Time      time.Time `json:"time"`
	Protocol  string    `json:"protocol"`
	Client    string    `json:"client"`
	Node      string    `json:"node,omitempty"`
	Target    string    `json:"target"`
	Interface string    `json:"interface,omitempty"` // of the target, with its groups and tags
}

// Identity describes where the node's identity is kept.
type Identity struct {
	State string `json:"state"` // the value of ROUTER_STATE
	// Service, Slot and LeaseEnd are those of a table's slot; they are absent for other
	// kinds of state, and before a slot is leased.
	Service  string    `json:"service,omitempty"`
	Slot     *int      `json:"slot,omitempty"`
	LeaseEnd time.Time `json:"lease_end,omitzero"`
	// Slots are all slots of the service, at most five minutes old.
	Slots []Slot `json:"slots,omitempty"`
}

// Slot is one of the identities of a service.
type Slot struct {
	Number int    `json:"number"`
	Node   string `json:"node,omitempty"` // the name of its last node
	// State is "held", "free", or "logged out": then the tailnet still lists a node that
	// is no longer used.
	State string `json:"state"`
	Task  string `json:"task,omitempty"` // the ARN of the task that holds it
}

// OtherRoute is a route that another node serves.
type OtherRoute struct {
	Node   string `json:"node"`
	Prefix string `json:"prefix"`
	// Peer reports that the node is another router of the same service.
	Peer bool `json:"peer"`
}

// Peers describes the nodes of the tailnet that may use this router.
type Peers struct {
	// Total is the number of peers in the netmap. The others count them by the path of
	// packets: direct, through a peer relay, through a DERP server, no packets lately.
	Total  int `json:"total"`
	Direct int `json:"direct"`
	Relay  int `json:"relay"`
	DERP   int `json:"derp"`
	Idle   int `json:"idle"`
	// List has some of the peers that exchanged packets with this router: active ones
	// first, then by bytes.
	List []Peer `json:"list"`
}

// Peer is a peer that exchanged packets with this router.
type Peer struct {
	Name string   `json:"name"`
	User string   `json:"user,omitempty"`
	Tags []string `json:"tags,omitempty"`
	IP   string   `json:"ip"`
	Path string   `json:"path"` // direct, relay, derp or idle
	// Via is the next hop of packets to the peer: an address, or a DERP region's code.
	Via string `json:"via,omitempty"`
	// LatencySeconds is the last measured round trip; 0 means none yet.
	LatencySeconds float64   `json:"latency_seconds,omitempty"`
	ToPeerBytes    int64     `json:"to_peer_bytes"`
	FromPeerBytes  int64     `json:"from_peer_bytes"`
	Handshake      time.Time `json:"last_handshake,omitzero"`
}

// Event is a line of the log at level info or above, except for the flow log.
type Event struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // INFO, WARN or ERROR
	Message string    `json:"message"`
	// Detail holds the line's attributes as name=value, in their order.
	Detail []string `json:"detail,omitempty"`
}

// Limits holds the router's limits and their use.
type Limits struct {
	Flows Use `json:"flows"`
	// FlowsPerPeer is the use of the peer with the most flows.
	FlowsPerPeer Use `json:"flows_per_peer"`
	// MemoryBytes is the memory of the process, and the limit of the task.
	MemoryBytes Use `json:"memory_bytes"`
	OpenFiles   Use `json:"open_files"`
}

// Use is the use of a limit; a Limit of 0 means none, or not known.
type Use struct {
	Used  int64 `json:"used"`
	Limit int64 `json:"limit"`
}

// DNS holds the settings that a tailnet's admin needs to resolve the VPC's private names.
type DNS struct {
	Resolver   string `json:"resolver"`        // in the VPC
	Source     string `json:"source"`          // of the address
	Nameserver string `json:"nameserver"`      // for clients: the resolver, or its 4via6 address
	Route      string `json:"route,omitempty"` // the advertised route that contains the nameserver; "": none
	SplitDNS   string `json:"split_dns"`       // the setting, in words
	Terraform  string `json:"terraform"`       // the setting, as a Terraform resource
	Answered   bool   `json:"answered"`        // by the router itself (ROUTER_DNS=on)
	// Problem is the reason why the router has no answers; "" is none.
	Problem string `json:"problem,omitempty"`
	// Zones are the domains that only the resolver resolves, as far as ROUTER_DNS_ZONES
	// names or finds them, and Notes the caveats.
	Zones []Zone   `json:"zones,omitempty"`
	Notes []string `json:"notes,omitempty"`
}

// DNSRegistration describes the router's entries in the tailnet's split DNS.
type DNSRegistration struct {
	// State is off, waiting, registered, partial, denied, unsupported, no_client or failing.
	State      string    `json:"state"`
	Message    string    `json:"message,omitempty"`
	Nameserver string    `json:"nameserver,omitempty"`
	Domains    []string  `json:"domains,omitempty"`
	Held       []string  `json:"held,omitempty"` // of Domains, those that were left alone
	Checked    time.Time `json:"checked,omitzero"`
}

// Zone is a domain that the VPC's resolver resolves.
type Zone struct {
	Name   string `json:"name"`
	Source string `json:"source"`
}

// Version holds the versions of the binary.
type Version struct {
	Router    string `json:"router"`
	Commit    string `json:"commit"`
	Tailscale string `json:"tailscale"`
}

// Mode is the forwarding mode, and the reason for it.
type Mode struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Place is the location of the task, as task metadata and EC2 report it.
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

// String returns the place on one line, "" outside of ECS.
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

// RouteStatus is a route with its state: advertised, approved, primary, or refused.
type RouteStatus struct {
	Prefix     string `json:"prefix"`
	Source     string `json:"source,omitempty"`
	Advertised bool   `json:"advertised"`
	Approved   bool   `json:"approved"`
	Primary    bool   `json:"primary"`
	Refused    string `json:"refused,omitempty"`
}

// Role is a role of the router besides that of a subnet router.
type Role struct {
	Name       string   `json:"name"`
	Advertised bool     `json:"advertised"`
	Approved   bool     `json:"approved"`
	Learned    int      `json:"learned_routes,omitempty"` // of an app connector
	Routes     []string `json:"routes,omitempty"`         // some of these
	Port       uint16   `json:"port,omitempty"`           // of a peer relay
	Sessions   int      `json:"sessions,omitempty"`       // of a peer relay
}

// Flows describes the open flows.
type Flows struct {
	TCP          int `json:"tcp"`
	UDP          int `json:"udp"`
	Limit        int `json:"limit"`
	LimitPerPeer int `json:"limit_per_peer"`
	// Live lists some flows, those with the most bytes first; in kernel mode none, as the
	// kernel has them.
	Live []Flow `json:"live"`
}

// Egress describes the flows from the VPC into the tailnet.
type Egress struct {
	Connections Use `json:"connections"` // of programs, by TCP
	// Targets lists 50 targets, and the rest as "other": those with the most open flows first, then by bytes.
	Targets []EgressTarget `json:"targets"`
}

// EgressTarget counts the flows to one target since the start.
type EgressTarget struct {
	Target         string `json:"target"` // as programs ask for it
	Open           int64  `json:"open"`
	Opened         int64  `json:"opened"`
	ToTailnetBytes int64  `json:"to_tailnet_bytes"`
	ToVPCBytes     int64  `json:"to_vpc_bytes"`
}

// Flow is an open TCP connection or UDP association.
type Flow struct {
	Protocol       string    `json:"protocol"`
	Client         string    `json:"client"`
	Node           string    `json:"node,omitempty"`
	Target         string    `json:"target"`
	Opened         time.Time `json:"opened"`
	ToVPCBytes     int64     `json:"to_vpc_bytes"`
	ToTailnetBytes int64     `json:"to_tailnet_bytes"`
}
