package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// demo is one run of the sandbox. It owns the processes, servers and files that the run
// has started, until cleanUp.
type demo struct {
	options
	show *show
	log  routerLog

	dir    string // temporary
	binary string // the router's
	// tailscaled is the path of Tailscale's program, for the client.
	tailscaled string
	listen     string // the router's HTTP listener
	world      *world
	client     *client
	router     *child
	reasons    []string // why the router was not ready when a step failed
}

// run runs every step. If one of them fails, the error is a [*stepError].
func (s *demo) run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.reasons = s.readinessReasons() // before cleanUp ends the router
		}
	}()
	if s.dir, err = os.MkdirTemp("", "sandbox-"); err != nil {
		return err
	}
	if s.verbose {
		s.log.show = s.show.logLine
	}
	s.show.print("A tailnet, an AWS account and a VPC on this machine, and the router between them.\n\n")
	if err := s.show.step(ctx, "build", s.build); err != nil {
		return err
	}
	running, cancel := s.bounded(ctx)
	defer cancel()
	if err := s.bringUp(running); err != nil {
		return err
	}
	if err := s.exchange(running); err != nil {
		return err
	}
	if s.once {
		return s.shutDown(running)
	}
	s.printHints()
	select {
	case <-ctx.Done():
	case <-s.router.ended:
		return &stepError{"running", fmt.Errorf("the router ended: %s", s.router.cmd.ProcessState)}
	}
	s.show.print("\n\n")
	second, stop := untilSignal(context.WithoutCancel(ctx)) // a second Ctrl-C aborts the stop
	defer stop()
	stopping, cancel := s.bounded(second)
	defer cancel()
	return s.shutDown(stopping)
}

func (s *demo) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("not within %v", s.timeout))
}

// cleanUp stops and removes everything that the run has started. It stops the router
// first, since the router uses everything else.
func (s *demo) cleanUp() {
	if s.router != nil {
		s.router.close()
	}
	if s.client != nil {
		s.client.close()
	}
	if s.world != nil {
		s.world.close()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

func (s *demo) build(ctx context.Context) (_ []string, err error) {
	const patience = 3 * time.Second // enough if Go's build cache is filled
	notice := time.AfterFunc(patience, func() {
		s.show.line("…", "build", "compiling; the first build takes minutes, the next ones a second")
	})
	defer notice.Stop()
	if s.binary, s.tailscaled, err = build(ctx, s.dir); err != nil {
		return nil, err
	}
	return []string{"the router's binary: " + s.binary}, nil
}

// bringUp runs the steps until the router is ready. Once the router runs, a step fails as
// soon as the router exits.
func (s *demo) bringUp(ctx context.Context) error {
	if err := s.show.step(ctx, "world", s.startWorld); err != nil {
		return err
	}
	if err := s.show.step(ctx, "client", s.startClient); err != nil {
		return err
	}
	if err := s.show.step(ctx, "router", s.startRouter); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.router.ended:
			cancel(fmt.Errorf("the router ended: %s", s.router.cmd.ProcessState))
		case <-ctx.Done():
		}
	}()
	for _, step := range []struct {
		name string
		do   func(context.Context) ([]string, error)
	}{
		{"discovery", s.discovery},
		{"credential", s.credential},
		{"registration", s.registration},
		{"approval", s.approval},
		{"readiness", s.readiness},
	} {
		if err := s.show.step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

func (s *demo) startWorld(context.Context) ([]string, error) {
	w, err := newWorld()
	if err != nil {
		return nil, err
	}
	s.world = w
	if s.alter != nil {
		s.alter(w)
	}
	return []string{
		"control server at " + w.tailnet.ControlURL() + ", with DERP and STUN",
		"AWS at " + w.aws.URL() + ": Secrets Manager, EC2; and the metadata of a Fargate task",
		fmt.Sprintf("VPC with a web server at %s and a resolver at %s", web.Addr(), resolver.Addr()),
	}, nil
}

func (s *demo) startClient(ctx context.Context) (_ []string, err error) {
	if s.client, err = joinTailnet(ctx, s.tailscaled, s.world.tailnet, s.world.guest, filepath.Join(s.dir, "client")); err != nil {
		return nil, err
	}
	return []string{"laptop is in the tailnet as " + s.client.node.IPs[0].String()}, nil
}

func (s *demo) startRouter(context.Context) ([]string, error) {
	ln, err := listenNear("127.0.0.1:9002")
	if err != nil {
		return nil, err
	}
	s.listen = ln.Addr().String()
	ln.Close() // the router listens on it
	socket := filepath.Join(s.dir, "router.sock")
	env := s.world.routerEnv(s.listen, socket)
	if err := writeCommands(s.dir, s.binary, socket, env); err != nil {
		return nil, err
	}
	if s.router, err = startRouter(s.binary, env, s.dir, &s.log); err != nil {
		return nil, err
	}
	lines := []string{fmt.Sprintf("process %d, with only this environment:", s.router.cmd.Process.Pid)}
	for _, e := range env {
		if strings.HasPrefix(e, "ECS_") || strings.HasPrefix(e, "AWS_") || strings.HasPrefix(e, "ROUTER_") {
			lines = append(lines, e)
		}
	}
	return lines, nil
}

func (s *demo) discovery(ctx context.Context) ([]string, error) {
	st, err := s.status(ctx, "the look-up of the routes", func(st ops.Status) bool { return !st.RoutesFound.IsZero() })
	if err != nil {
		return nil, err
	}
	if err := sameRoutes(st.Routes, vpcCIDRs); err != nil {
		return nil, err
	}
	return []string{
		"task metadata: " + st.Place.String(),
		join(s.awsCalls("ec2:")) + ": " + join(vpcCIDRs),
	}, nil
}

// sameRoutes returns an error unless got has exactly the wanted prefixes, advertised yet
// or not.
func sameRoutes(got []ops.RouteStatus, want []netip.Prefix) error {
	var found []string
	for _, r := range got {
		found = append(found, r.Prefix)
	}
	var wanted []string
	for _, p := range want {
		wanted = append(wanted, p.String())
	}
	slices.Sort(found)
	slices.Sort(wanted)
	if !slices.Equal(found, wanted) {
		return fmt.Errorf("looking up the routes: found %v, want %v", found, wanted)
	}
	return nil
}

// awsCalls returns the distinct calls of one service so far, in order.
func (s *demo) awsCalls(service string) []string {
	var calls []string
	for _, c := range s.world.aws.Calls() {
		if strings.HasPrefix(c, service) && !slices.Contains(calls, c) {
			calls = append(calls, c)
		}
	}
	return calls
}

func (s *demo) credential(ctx context.Context) ([]string, error) {
	var source any
	err := testwait.For(ctx, "the credential", func(context.Context) error {
		record, found := s.log.find("credential read")
		if !found {
			return errors.New("not in the log")
		}
		source = record["source"]
		return nil
	})
	return []string{fmt.Sprintf("%s: %v", join(s.awsCalls("secretsmanager:")), source)}, err
}

func (s *demo) registration(ctx context.Context) ([]string, error) {
	n, err := s.awaitRouter(ctx, "the router as an online node", func(n tailnettest.Node) bool { return n.Online })
	if err != nil {
		return nil, err
	}
	kept := "kept when it logs out"
	if n.Ephemeral {
		kept = "ephemeral"
	}
	return []string{fmt.Sprintf("%s is in the tailnet as %s: %s, %s", n.Name, n.IPs[0], join(n.Tags), kept)}, nil
}

func (s *demo) approval(ctx context.Context) ([]string, error) {
	n, err := s.awaitRouter(ctx, "the router as primary for the VPC", func(n tailnettest.Node) bool {
		return !slices.ContainsFunc(vpcCIDRs, func(p netip.Prefix) bool { return !slices.Contains(n.Primary, p) })
	})
	if err != nil {
		return nil, err
	}
	return []string{
		"advertised " + join(n.Advertised),
		"approved   " + join(n.Approved) + " for " + routerTag,
		"primary    " + n.Name,
	}, s.client.awaitRoutes(ctx, vpcCIDRs)
}

// awaitRouter waits until the router's node at control satisfies good, and returns it.
func (s *demo) awaitRouter(ctx context.Context, name string, good func(tailnettest.Node) bool) (n tailnettest.Node, err error) {
	err = s.world.tailnet.Await(ctx, name, func(nodes []tailnettest.Node) bool {
		var found bool
		n, found = tailnettest.Find(nodes, routerName)
		return found && good(n)
	})
	return n, err
}

func (s *demo) readiness(ctx context.Context) ([]string, error) {
	_, err := s.status(ctx, "readiness", func(st ops.Status) bool { return st.Ready })
	return []string{"http://" + s.listen + "/readyz answers 200"}, err
}

// exchange sends traffic through the route, as users do.
func (s *demo) exchange(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"HTTP", func(ctx context.Context) (string, error) {
			return s.fetch(ctx, s.client.get, "http://"+web.Addr().String()+"/")
		}},
		{"HTTP, IPv6", func(ctx context.Context) (string, error) {
			return s.fetch(ctx, s.client.get, "http://["+web6.Addr().String()+"]/")
		}},
		{"DNS, UDP", s.lookUp},
		{"SOCKS5", func(ctx context.Context) (string, error) {
			return s.fetch(ctx, s.client.getByProxy, "http://"+webName+"/")
		}},
		{"closed port", s.refused},
	} {
		timed := func(ctx context.Context) ([]string, error) {
			start := time.Now()
			line, err := step.do(ctx)
			return []string{fmt.Sprintf("%s (%s)", line, time.Since(start).Round(100*time.Microsecond))}, err
		}
		if err := s.show.step(ctx, step.name, timed); err != nil {
			return err
		}
	}
	return nil
}

func (s *demo) fetch(ctx context.Context, get func(context.Context, string) (string, error), page string) (string, error) {
	answer, err := get(ctx, page)
	if err != nil {
		return "", fmt.Errorf("getting %s from the client: %w", page, err)
	}
	if want := fmt.Sprintf("200 OK %q", greeting); answer != want {
		return "", fmt.Errorf("getting %s from the client: %s, want %s", page, answer, want)
	}
	return "laptop → " + page + " → " + answer, nil
}

func (s *demo) lookUp(ctx context.Context) (string, error) {
	found, err := s.client.names.LookupNetIP(ctx, "ip4", webName+".")
	if err != nil {
		return "", fmt.Errorf("querying %s from the client: %w", resolver, err)
	}
	if len(found) != 1 || found[0].Unmap() != web.Addr() {
		return "", fmt.Errorf("querying %s from the client: %v, want %s", resolver, found, web.Addr())
	}
	return fmt.Sprintf("laptop → %s %s? → %s", resolver, webName, found[0]), nil
}

func (s *demo) refused(ctx context.Context) (string, error) {
	conn, err := s.client.dial(ctx, "tcp", nothing.String())
	if err == nil {
		conn.Close()
		return "", fmt.Errorf("connecting to %s, where nothing listens: succeeded, want a refusal", nothing)
	}
	if ctx.Err() != nil || !strings.Contains(err.Error(), "refused") {
		return "", fmt.Errorf("awaiting a refusal by %s: %w", nothing, err)
	}
	return fmt.Sprintf("laptop → %s → refused", nothing), nil
}

// shutDown stops the router as ECS does, and checks that it drained and logged out.
func (s *demo) shutDown(ctx context.Context) error {
	start := time.Now()
	return s.show.step(ctx, "SIGTERM", func(ctx context.Context) ([]string, error) {
		if err := s.router.terminate(ctx); err != nil {
			return nil, err
		}
		took := time.Since(start).Round(time.Millisecond)
		drained, found := s.log.find("drained")
		if !found {
			return nil, errors.New("the router's log lacks the message \"drained\"")
		}
		err := s.world.tailnet.Await(ctx, "the router's absence at control", func(nodes []tailnettest.Node) bool {
			_, found := tailnettest.Find(nodes, routerName)
			return !found
		})
		if err != nil {
			return nil, err
		}
		return []string{
			fmt.Sprintf("drained in %v, flows cut: %v", drained["took"], drained["flows_cut"]),
			"logged out: control has removed the node",
			fmt.Sprintf("exited with 0 after %v", took),
		}, nil
	})
}

// printHints prints commands to try.
func (s *demo) printHints() {
	curl := "curl -x " + s.client.proxyURL() + " "
	s.show.print("\nEverything is up. Try in another terminal:\n\n")
	for _, try := range [][2]string{
		{"page", "http://" + s.listen + "/"},
		{"router status", filepath.Join(s.dir, "router") + " status"},
		{"router doctor", filepath.Join(s.dir, "router") + " doctor"},
		{"tailscale", filepath.Join(s.dir, "tailscale") + " status"},
		{"readiness", "curl http://" + s.listen + "/readyz"},
		{"status", "curl http://" + s.listen + "/status"},
		{"metrics", "curl http://" + s.listen + "/metrics"},
		{"into the VPC", curl + "http://" + web.Addr().String() + "/"},
		{"by name", curl + "http://" + webName + "/"},
	} {
		s.show.print("  %-14s %s\n", try[0], try[1])
	}
	s.show.print("\nCtrl-C stops the router and shows its drain.\n")
}

func join[T any](list []T) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), " "), "[]")
}
