package tailnettest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"subnetrouter/internal/secret"
)

// Headscale runs Headscale, a third-party control server, as a child process with this
// package's DERP server. It shows that tests do not depend on [Tailnet]. It is driven
// through its command line.
//
// Versions 0.26 (the first with nodes approve-routes) and later work; see
// [headscaleJSON] for the differences of their output. docs/headscale.md lists the
// versions that the end-to-end tests were run against.
//
// Headscale reports neither endpoints nor home DERP of nodes, and has no device
// approval: all nodes are authorized.
type Headscale struct {
	program string
	dir     string // configuration, database, socket and log
	url     string
	derp    *derpServer
	user    headscaleID // the owner of the keys

	serve *exec.Cmd
	ended chan struct{} // closed once serve has ended
}

var _ Control = (*Headscale)(nil)

// HeadscaleConfig configures a [Headscale].
type HeadscaleConfig struct {
	Program string     // path of the headscale binary
	Host    netip.Addr // the address that it and the DERP server listen on; 127.0.0.1 by default

	// AutoApprovers is as in [Policy]. Headscale approves at once.
	AutoApprovers map[string][]netip.Prefix
	// Tags are tags that keys may give, besides those of AutoApprovers.
	Tags []string
}

const (
	// Headscale creates its keys and database first, which takes long on a loaded machine.
	headscaleStart = 30 * time.Second
	headscaleStop  = 10 * time.Second
	// headscalePoll is the period of Await: Headscale's command line has no command that
	// waits.
	headscalePoll = 100 * time.Millisecond
	headscaleUser = "tester"
)

// StartHeadscale runs Headscale until Close. It returns when the server answers.
func StartHeadscale(cfg HeadscaleConfig) (*Headscale, error) {
	if !cfg.Host.IsValid() {
		cfg.Host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	dir, err := os.MkdirTemp("", "headscale-") // not below a test's: a socket's path is at most 107 bytes
	if err != nil {
		return nil, fmt.Errorf("starting headscale: %w", err)
	}
	derp, err := startDERP(cfg.Host, 0, 0)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	h := &Headscale{program: cfg.Program, dir: dir, derp: derp}
	if err := h.start(cfg); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Headscale) start(cfg HeadscaleConfig) error {
	listen, err := freePort(cfg.Host)
	if err != nil {
		return fmt.Errorf("finding a port for headscale: %w", err)
	}
	h.url = "http://" + listen.String()
	if err := h.writeFiles(listen, cfg); err != nil {
		return fmt.Errorf("configuring headscale: %w", err)
	}
	if err := h.startServer(); err != nil {
		return fmt.Errorf("starting headscale: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), headscaleStart)
	defer cancel()
	if err := h.awaitHealth(ctx); err != nil {
		return err
	}
	var user struct {
		ID headscaleID `json:"id"`
	}
	if err := h.ask(ctx, &user, "users", "create", headscaleUser); err != nil {
		return err
	}
	h.user = user.ID
	return nil
}

// Close ends the server and removes its files.
func (h *Headscale) Close() error {
	if h.serve != nil {
		h.serve.Process.Signal(syscall.SIGTERM)
		select {
		case <-h.ended:
		case <-time.After(headscaleStop):
			h.serve.Process.Kill()
			<-h.ended
		}
	}
	h.derp.close()
	return os.RemoveAll(h.dir)
}

// Log returns the server's log so far, for failure messages.
func (h *Headscale) Log() string {
	b, _ := os.ReadFile(h.path("log"))
	return strings.TrimSpace(string(b))
}

// ControlURL implements [Control].
func (h *Headscale) ControlURL() string { return h.url }

// keyLifetime is the lifetime of a key without an expiry: all of Headscale's keys expire.
const keyLifetime = 24 * time.Hour

// CreateKey implements [Control]. It returns an error for a key with a Value, which
// Headscale chooses itself, and for one that is invalid from the start (Revoked, a past
// Expiry).
func (h *Headscale) CreateKey(ctx context.Context, k Key) (secret.String, error) {
	lifetime := keyLifetime
	if !k.Expiry.IsZero() {
		lifetime = time.Until(k.Expiry).Truncate(time.Second)
	}
	if k.Value != "" || k.Revoked || lifetime <= 0 {
		return "", errors.New("creating an auth key: headscale cannot create a key with a chosen value or an invalid key")
	}
	args := []string{"preauthkeys", "create",
		"--user", h.user.String(),
		"--expiration", fmt.Sprintf("%ds", int(lifetime.Seconds()))}
	if k.Reusable {
		args = append(args, "--reusable")
	}
	if k.Ephemeral {
		args = append(args, "--ephemeral")
	}
	if len(k.Tags) > 0 {
		args = append(args, "--tags", strings.Join(k.Tags, ","))
	}
	var made struct {
		Key string `json:"key"`
	}
	err := h.ask(ctx, &made, args...)
	return secret.String(made.Key), err
}

// Nodes implements [Control].
func (h *Headscale) Nodes(ctx context.Context) ([]Node, error) {
	list, err := h.list(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	nodes := make([]Node, len(list))
	for i, n := range list {
		nodes[i] = n.node(now)
	}
	return nodes, nil
}

// Approve implements [Control].
func (h *Headscale) Approve(ctx context.Context, node string, routes ...netip.Prefix) error {
	n, err := h.find(ctx, "approving routes", node)
	if err != nil {
		return err
	}
	// The command replaces the approved routes.
	var all []string
	for _, route := range slices.Concat(n.Approved, routes) {
		all = append(all, route.String())
	}
	return h.ask(ctx, nil, "nodes", "approve-routes", "--identifier", n.ID.String(), "--routes", strings.Join(all, ","))
}

// ExpireNode implements [Control].
func (h *Headscale) ExpireNode(ctx context.Context, node string) error {
	n, err := h.find(ctx, "expiring", node)
	if err != nil {
		return err
	}
	return h.ask(ctx, nil, "nodes", "expire", "--identifier", n.ID.String())
}

// DeleteNode implements [Control].
func (h *Headscale) DeleteNode(ctx context.Context, node string) error {
	n, err := h.find(ctx, "deleting", node)
	if err != nil {
		return err
	}
	// Not in JSON: with JSON, versions up to 0.27 print "null" and succeed after a failure.
	_, err = h.run(ctx, "--force", "nodes", "delete", "--identifier", n.ID.String())
	return err
}

// Await implements [Control].
func (h *Headscale) Await(ctx context.Context, what string, cond func([]Node) bool) error {
	return await(ctx, h.look, what, cond)
}

// look counts its calls as versions, since Headscale has no version of the list.
func (h *Headscale) look(ctx context.Context, after uint64) ([]Node, uint64, error) {
	if after > 0 {
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(headscalePoll):
		}
	}
	nodes, err := h.Nodes(ctx)
	return nodes, after + 1, err
}

// headscaleNode is a node in Headscale's JSON, see [headscaleJSON].
type headscaleNode struct {
	ID         headscaleID    `json:"id"`
	GivenName  string         `json:"given_name"` // unique
	Name       string         `json:"name"`       // the host name that the node reports
	NodeKey    string         `json:"node_key"`
	IPs        []netip.Addr   `json:"ip_addresses"`
	Tags       []string       `json:"tags"`             // from 0.28 on
	ValidTags  []string       `json:"valid_tags"`       // before 0.28
	Available  []netip.Prefix `json:"available_routes"` // advertised
	Approved   []netip.Prefix `json:"approved_routes"`  // advertised or not
	Primary    []netip.Prefix `json:"subnet_routes"`
	Online     bool           `json:"online"`
	Expiry     headscaleTime  `json:"expiry"`
	PreAuthKey struct {
		Ephemeral bool `json:"ephemeral"`
	} `json:"pre_auth_key"`
}

func (n headscaleNode) node(now time.Time) Node {
	out := Node{
		ID: n.ID.String(), Name: n.GivenName, Hostname: n.Name, Key: n.NodeKey, IPs: n.IPs,
		Tags:       slices.Concat(n.Tags, n.ValidTags),
		Advertised: slices.Concat(n.Available), // nil if empty, in both encodings
		Primary:    slices.Concat(n.Primary),
		Online:     n.Online,
		Ephemeral:  n.PreAuthKey.Ephemeral,
		Authorized: true,
		Expired:    !n.Expiry.IsZero() && !now.Before(n.Expiry.Time),
	}
	for _, route := range n.Approved {
		if slices.Contains(n.Available, route) {
			out.Approved = append(out.Approved, route)
		}
	}
	return out
}

// list returns the nodes, oldest first.
func (h *Headscale) list(ctx context.Context) ([]headscaleNode, error) {
	var list []headscaleNode
	err := h.ask(ctx, &list, "nodes", "list")
	slices.SortFunc(list, func(a, b headscaleNode) int { return cmp.Compare(a.ID, b.ID) })
	return list, err
}

func (h *Headscale) find(ctx context.Context, doing, which string) (headscaleNode, error) {
	list, err := h.list(ctx)
	if err != nil {
		return headscaleNode{}, fmt.Errorf("%s: %w", doing, err)
	}
	i := slices.IndexFunc(list, func(n headscaleNode) bool {
		return n.GivenName == which || n.ID.String() == which || n.NodeKey == which
	})
	if i < 0 {
		return headscaleNode{}, fmt.Errorf("%s: no node %q", doing, which)
	}
	return list[i], nil
}

// ask runs a command and parses its JSON output into out, unless out is nil.
func (h *Headscale) ask(ctx context.Context, out any, args ...string) error {
	b, err := h.run(ctx, append([]string{"--output", "json"}, args...)...)
	if err != nil || out == nil {
		return err
	}
	if err := headscaleJSON(b, out); err != nil {
		return fmt.Errorf("parsing the output of headscale %s: %w", strings.Join(args[:2], " "), err)
	}
	return nil
}

// run runs a command and returns its output. An error contains the command's error output.
func (h *Headscale) run(ctx context.Context, args ...string) ([]byte, error) {
	b, err := h.command(ctx, args...).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("running headscale %s: %w", strings.Join(args, " "), err)
	}
	return b, nil
}

// command returns a command of Headscale with our configuration. It does not inherit the
// environment, whose HEADSCALE_ variables would override the configuration.
func (h *Headscale) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.program, append([]string{"--config", h.path("config.yaml")}, args...)...)
	cmd.Env = []string{"HOME=" + h.dir}
	return cmd
}

func (h *Headscale) path(name string) string { return filepath.Join(h.dir, name) }
