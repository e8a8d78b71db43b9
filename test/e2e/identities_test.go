package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// fleet is a service of routers that share the identities in a table.
type fleet struct {
	w     *world
	state string
	key   secret.String
	ecs   *awstest.Server // ECS only; the table and the KMS key are moto's
	hosts []*netnstest.Host
	tasks int // started so far
}

// member is one task of a fleet.
type member struct {
	*router
	task string // its ID
}

const fleetCluster = "network"

// newFleet creates the table and the key, with two slots, and hosts for the old and the new
// task of a deploy.
func newFleet(w *world) *fleet {
	t := w.t
	t.Helper()
	stores, err := w.moto.SeedStores(t.Context(), awstest.World{
		Tables: map[string]awstest.Table{"routers": {Partition: "service", Sort: "slot", SortType: "N"}}, Keys: []awstest.Key{{ID: "state"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ecs, err := awstest.NewServer(selfIP+":0", awstest.World{Clusters: map[string]awstest.Cluster{fleetCluster: {
		Tasks: map[string]awstest.TaskState{}, Services: map[string]awstest.Service{"edge": {Desired: 1, Running: 1}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ecs.Close() })
	return &fleet{
		w: w, ecs: ecs, state: "dynamodb:routers?kms=" + stores.KeyARN(stores.Keys[0].ID),
		key:   w.createKey(tailnettest.Key{Reusable: true, Preauthorized: true, Tags: []string{tag}}),
		hosts: []*netnstest.Host{w.routerHost, w.newRouterHost("next", "192.168.77.31", "10.0.1.6")},
	}
}

// setTask sets the state of a task in ECS.
func (f *fleet) setTask(id string, s awstest.TaskState) {
	f.ecs.Update(func(w *awstest.World) { w.Clusters[fleetCluster].Tasks[id] = s })
}

// start starts the next task, on the host that the task before it does not use, with more
// variables.
func (f *fleet) start(more ...string) *member {
	w := f.w
	w.t.Helper()
	id := fmt.Sprintf("task-%d", f.tasks)
	host := f.hosts[f.tasks%len(f.hosts)]
	f.tasks++
	f.setTask(id, awstest.TaskState{})
	metadata, err := awstest.NewMetadata(selfIP+":0", awstest.Task{
		ARN: "arn:aws:ecs:eu-west-1:123456789012:task/" + fleetCluster + "/" + id, Service: "edge", ContainerID: "container-of-" + id, MemoryMiB: 512,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { metadata.Close() })
	env := map[string]string{
		"ROUTER_STATE": f.state, "ROUTER_HOSTNAME": "edge", "ROUTER_DRAIN_TIMEOUT": "20s",
		"ECS_CONTAINER_METADATA_URI_V4": metadata.URI(),
		"AWS_REGION":                    w.aws.Region, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
		"AWS_ENDPOINT_URL": w.moto.URL(), "AWS_ENDPOINT_URL_ECS": f.ecs.URL(),
	}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	r := w.startRouter(routerOptions{key: f.key, host: host, env: env})
	return &member{r, id}
}

// nodes returns the routers' nodes with their addresses, in the order of their names.
func (f *fleet) nodes() []string {
	f.w.t.Helper()
	list, err := f.w.control.Nodes(f.w.t.Context())
	if err != nil {
		f.w.t.Fatal(err)
	}
	var out []string
	for _, n := range list {
		if strings.HasPrefix(n.Name, "edge") {
			out = append(out, fmt.Sprintf("%s %v", n.Name, n.IPs))
		}
	}
	slices.Sort(out)
	return out
}

// TestIdentities has a service of one task with two slots make ten rolling deploys in a row,
// and crash ten times. The names and addresses stay, no node is left over, and a deploy cuts
// no flow.
func TestIdentities(t *testing.T) {
	const rounds = 10
	w := newWorld(t, worldOptions{policy: tailnettest.Policy{Failover: time.Second}})
	w.serveEchoTCP(net.JoinHostPort(dbHost, echoPort))
	f := newFleet(w)
	now := f.start()
	now.awaitReady()
	w.awaitPrimary("edge-0")
	c := w.startClient()
	c.awaitRoute("10.0.0.0/16")

	var known []string
	l := w.startLoad(0, 5*time.Second)
	for i := range rounds {
		next := f.start()
		next.awaitReady()
		if i == 0 {
			known = f.nodes()
			if len(known) != 2 || !strings.HasPrefix(known[0], "edge-0 ") || !strings.HasPrefix(known[1], "edge-1 ") {
				t.Fatalf("the nodes are %v, want edge-0 and edge-1", known)
			}
		}
		l.window(500 * time.Millisecond)
		now.cmd.Process.Signal(syscall.SIGTERM)
		if code := now.wait(); code != 0 {
			t.Fatalf("deploy %d: the old task exited with code %d", i, code)
		}
		now.hasLogged(`"msg":"slot released"`)
		f.setTask(now.task, awstest.TaskState{LastStatus: "STOPPED"})
		if got := f.nodes(); !slices.Equal(got, known) {
			t.Fatalf("deploy %d: the nodes are %v, before %v", i, got, known)
		}
		now = next
		w.awaitPrimary(fmt.Sprintf("edge-%d", (i+1)%2))
	}
	l.window(time.Second)
	l.stop()
	t.Logf("connections: %v; requests of %v: %v", &l.connections, requestTime, &l.requests)
	if l.connections.failures() > 0 || l.requests.failures() > 0 {
		t.Error("a deploy must not fail any connection or request")
	}
	if gap := l.stalled(noticed); gap > 0 {
		t.Errorf("no connection succeeded for %v; the machine: %v", gap, &l.direct)
	}

	for i := range rounds {
		now.cmd.Process.Kill()
		now.wait()
		crashed := now.task
		f.setTask(crashed, awstest.TaskState{LastStatus: "DEPROVISIONING"})
		now = f.start()
		now.awaitReady()
		f.setTask(crashed, awstest.TaskState{LastStatus: "STOPPED"})
		if got := f.nodes(); !slices.Equal(got, known) {
			t.Fatalf("crash %d: the nodes are %v, before %v", i, got, known)
		}
	}
	testwait.Until(t, "a connection after the crashes", func() error {
		conn, err := w.client.Dial(testwait.Context(t), "tcp", net.JoinHostPort(dbHost, "80"))
		if err == nil {
			conn.Close()
		}
		return err
	})
	for line := range strings.SplitSeq(now.out.String(), "\n") {
		if strings.Contains(line, f.key.Reveal()) || strings.Contains(line, "privkey:") {
			t.Errorf("the log has a secret: %s", line)
		}
	}
}

// TestImportedNode moves a node from a folder into the table: the node keeps its address. Then
// the node moves on into a parameter.
func TestImportedNode(t *testing.T) {
	w := newWorld(t, worldOptions{})
	f := newFleet(w)
	folder := w.sharedDir()
	addresses := func() string {
		t.Helper()
		nodes := f.nodes()
		if len(nodes) != 1 {
			t.Fatalf("the nodes are %v", nodes)
		}
		_, ips, _ := strings.Cut(nodes[0], " ")
		return ips
	}
	before := f.start("ROUTER_STATE", folder)
	before.awaitReady()
	want := addresses()
	if code := before.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for i := range 2 { // the second start has nothing to import
		now := f.start("ROUTER_STATE_IMPORT", folder)
		now.awaitReady()
		if got := addresses(); got != want { // the name may be the former one: control decides
			t.Fatalf("start %d: the addresses are %s, before %s", i, got, want)
		}
		if imported := strings.Contains(now.out.String(), `"imported":"`+folder); imported != (i == 0) {
			t.Errorf("start %d: imported %v", i, imported)
		}
		if code := now.stop(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}

	parameter := "arn:aws:ssm:eu-west-1:123456789012:parameter/edge/state"
	var last string
	for i := range 2 {
		now := f.start("ROUTER_STATE", parameter, "ROUTER_HOSTNAME", "parameter")
		now.awaitReady()
		nodes, err := w.control.Nodes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, ok := tailnettest.Find(nodes, "parameter")
		if got := fmt.Sprint(n.IPs); !ok || len(nodes) != 2 || i > 0 && got != last {
			t.Fatalf("start %d: the nodes are %v, the address before was %s", i, nodes, last)
		}
		last = fmt.Sprint(n.IPs)
		if code := now.stop(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
}
