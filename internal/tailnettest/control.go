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

// Control is what a test needs of a control server, and no more than a
// third-party one can offer too. [Tailnet] is one in this process, [Admin]
// the same one somewhere else, [Headscale] a third-party one.
//
// A node is named by its Name, its ID or its node key.
type Control interface {
	// ControlURL is what nodes are told to log in to.
	ControlURL() string
	// CreateKey makes an auth key. An empty Value is generated.
	CreateKey(ctx context.Context, k Key) (secret.String, error)
	// Nodes lists the members, oldest first.
	Nodes(ctx context.Context) ([]Node, error)
	// Approve lets a node serve routes, now or once it advertises them.
	Approve(ctx context.Context, node string, routes ...netip.Prefix) error
	// ExpireNode expires a node's key: it has to log in again.
	ExpireNode(ctx context.Context, node string) error
	// DeleteNode removes a node as an administrator does.
	DeleteNode(ctx context.Context, node string) error
	// Await returns nil as soon as cond holds for the list of nodes. When ctx
	// ends first, the error says what was awaited and what the nodes were.
	Await(ctx context.Context, what string, cond func([]Node) bool) error
}

var (
	_ Control = (*Tailnet)(nil)
	_ Control = (*Admin)(nil)
)

// Key is an auth key and what it gives to the nodes that register with it.
type Key struct {
	Value         secret.String
	Reusable      bool
	Ephemeral     bool      // nodes vanish when they log out
	Preauthorized bool      // nodes need no device approval
	Tags          []string  // tags of the nodes
	Expiry        time.Time // zero: never
	Revoked       bool
}

// Node is a member of the tailnet as the control server knows it.
type Node struct {
	ID       string // never used again after a removal, nor are the IPs
	Name     string // unique: the second "web" is "web-1"
	Hostname string // what the node calls itself
	Key      string // public node key
	IPs      []netip.Addr
	Tags     []string

	Advertised []netip.Prefix // routes the node offers
	Approved   []netip.Prefix // of these, those that it may serve; and those forced on it
	Primary    []netip.Prefix // of these, those for which control picked it

	Online     bool // its map poll is open
	Ephemeral  bool
	Authorized bool // false while it waits for device approval
	Expired    bool // its key has expired

	Endpoints []netip.AddrPort
	HomeDERP  int // region; 0 while unknown
}

// String tells what matters of n on one line, for failure messages.
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

// look returns the nodes once their version is past after.
type look func(ctx context.Context, after uint64) (nodes []Node, version uint64, err error)

// await is [Control.Await] for whatever can look.
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
