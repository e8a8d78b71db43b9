package tailnettest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/secret"
)

// Control is the interface of tests to a control server. A third-party control server can
// implement it, too: [Tailnet] is a control server in this process, [Admin] drives one
// elsewhere, and [Headscale] is a third-party one.
//
// Methods take a node's Name, ID or node key.
type Control interface {
	// ControlURL returns the URL at which nodes log in.
	ControlURL() string
	// CreateKey creates an auth key. An empty Value is generated.
	CreateKey(ctx context.Context, k Key) (secret.String, error)
	// Nodes lists the members, oldest first.
	Nodes(ctx context.Context) ([]Node, error)
	// Approve approves routes of a node, which may advertise them now or later.
	Approve(ctx context.Context, node string, routes ...netip.Prefix) error
	// ExpireNode expires a node's key: it has to log in again.
	ExpireNode(ctx context.Context, node string) error
	// DeleteNode removes a node as an administrator does.
	DeleteNode(ctx context.Context, node string) error
	// Await waits until cond holds for the list of nodes. If ctx ends first, the
	// error names the condition and the last list of nodes.
	Await(ctx context.Context, what string, cond func([]Node) bool) error
}

var (
	_ Control = (*Tailnet)(nil)
	_ Control = (*Admin)(nil)
)

// Key is an auth key, and the properties of nodes that register with it.
type Key struct {
	Value         secret.String
	Reusable      bool
	Ephemeral     bool      // nodes are removed when they log out
	Preauthorized bool      // nodes need no device approval
	Tags          []string  // tags of the nodes
	Expiry        time.Time // zero: never
	Revoked       bool
}

// Node is a member of the tailnet as the control server knows it.
type Node struct {
	ID       string // not reused after a removal, nor are the IPs
	Name     string // unique: the second "web" is "web-1"
	Hostname string // as the node reports it
	Key      string // public node key
	IPs      []netip.Addr
	Tags     []string

	Advertised []netip.Prefix
	Approved   []netip.Prefix // advertised routes that it may serve, and routes of ForceRoutes
	Primary    []netip.Prefix // approved routes for which control has elected it

	Online     bool // its map poll is open
	Ephemeral  bool
	Authorized bool // false until the device is approved
	Expired    bool // its key has expired

	Endpoints []netip.AddrPort
	HomeDERP  int // region; 0 while unknown
}

// String returns a summary of n on one line, for failure messages.
func (n Node) String() string {
	state := "offline"
	if n.Online {
		state = "online"
	}
	if n.Expired {
		state += " expired"
	}
	if !n.Authorized {
		state += " unauthorized"
	}
	return fmt.Sprintf("%s (%s %s derp=%d endpoints=%d advertised=%v approved=%v primary=%v)",
		n.Name, n.ID, state, n.HomeDERP, len(n.Endpoints), n.Advertised, n.Approved, n.Primary)
}

// Find returns the node called name and whether there is one.
func Find(nodes []Node, name string) (Node, bool) {
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return nodes[i], true
}

// look waits until the version of the list of nodes is greater than after, and returns
// both.
type look func(ctx context.Context, after uint64) (nodes []Node, version uint64, err error)

// await implements [Control.Await].
func await(ctx context.Context, look look, what string, cond func([]Node) bool) error {
	var last []Node
	var version uint64
	for {
		nodes, v, err := look(ctx, version)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("awaiting %s: %w; nodes: %s", what, err, describe(last))
		}
		if cond(nodes) {
			return nil
		}
		last, version = nodes, v
	}
}

func describe(nodes []Node) string {
	if len(nodes) == 0 {
		return "none"
	}
	lines := make([]string, len(nodes))
	for i, n := range nodes {
		lines[i] = n.String()
	}
	return strings.Join(lines, ", ")
}
