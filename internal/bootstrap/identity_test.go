package bootstrap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/slot"
	"subnetrouter/internal/testwait"
)

const (
	stateKey   = "arn:aws:kms:eu-west-1:123456789012:key/state"
	stateParam = "arn:aws:ssm:eu-west-1:123456789012:parameter/router/state"
	// nodeState stands for a state with a private key.
	nodeState = `{"_machinekey":"cHJpdmtleTpTM0NSM1Q="}`
)

// member is a task of a service that shares a table.
func member(n int) awstest.Task {
	t := fargate()
	t.ARN, t.Service, t.ContainerID = fmt.Sprintf("arn:aws:ecs:eu-west-1:123456789012:task/network/%d", n), "vpn", fmt.Sprintf("container-%d", n)
	return t
}

// addIdentities adds what identities need to the world of start.
func addIdentities(w *awstest.World) {
	w.Tables = map[string]awstest.Table{"routers": {Partition: "service", Sort: "slot", SortType: "N"}}
	w.Parameters = map[string]awstest.Parameter{}
	w.Keys = []awstest.Key{{ID: "state"}, {ID: "other"}}
	w.Clusters = map[string]awstest.Cluster{"network": {
		Tasks:    map[string]awstest.TaskState{"1": {}, "2": {}, "3": {}, "4": {}},
		Services: map[string]awstest.Service{"vpn": {Desired: 1, Running: 1}},
	}}
}

// another returns the same AWS as another task sees it.
func (a *aws) another(t *testing.T, task awstest.Task) *aws {
	t.Helper()
	metadata, err := awstest.NewMetadata("", task)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { metadata.Close() })
	return &aws{Server: a.Server, Metadata: metadata}
}

// withState returns a bootstrap with a value of ROUTER_STATE.
func (a *aws) withState(t *testing.T, state string, more ...func(*bootstrap.Config)) *bootstrap.Bootstrap {
	t.Helper()
	source, err := identity.Parse(state)
	if err != nil {
		t.Fatal(err)
	}
	c := a.config("10.0.0.0/16")
	c.Identity.Source = source
	for _, edit := range more {
		edit(&c)
	}
	return bootstrap.New(c)
}

func open(t *testing.T, b *bootstrap.Bootstrap) *identity.Identity {
	t.Helper()
	i, err := b.Identity(testwait.Context(t))
	if err != nil {
		t.Fatalf("opening the identity: %v; waiting for %v", err, b.IdentityWaiting())
	}
	return i
}

func stateOf(t *testing.T, i *identity.Identity) string {
	t.Helper()
	text, err := i.State.Load()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// awaitWaiting waits until Identity has a reason for not returning.
func awaitWaiting(t *testing.T, b *bootstrap.Bootstrap, want problem.Code, text string) {
	t.Helper()
	testwait.Until(t, "the reason of waiting", func() error {
		err := b.IdentityWaiting()
		if err == nil || problem.CodeOf(err, "") != want || !strings.Contains(err.Error(), text) {
			return fmt.Errorf("it is %w (%v)", err, problem.CodeOf(err, ""))
		}
		return nil
	})
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sub")
	a := start(t, fargate())
	i := open(t, a.withState(t, dir))
	if got := stateOf(t, i); got != "" {
		t.Errorf("a new folder has the state %q", got)
	}
	for _, text := range []string{nodeState, "{}"} {
		if err := i.State.Save([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := stateOf(t, open(t, a.withState(t, dir))); got != text {
			t.Errorf("the next process reads %q, want %q", got, text)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	info, _ := files[0].Info()
	if files[0].Name() != "tailscaled.state" || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v", info)
	}
	if err := os.Remove(filepath.Join(dir, "tailscaled.state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tailscaled.state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := i.State.Load(); err == nil {
		t.Error("a folder in place of the file was read")
	}
}

// TestParameter keeps one router's state in a parameter, as the official image does.
func TestParameter(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(addIdentities)
	i := open(t, a.withState(t, stateParam))
	if got := stateOf(t, i); got != "" {
		t.Errorf("a missing parameter has the state %q", got)
	}
	for range 3 { // written once
		if err := i.State.Save([]byte("{\n  \"_machinekey\": \"cHJpdmtleTpTM0NSM1Q=\"\n}")); err != nil {
			t.Fatal(err)
		}
	}
	puts := 0
	for _, call := range a.Calls() {
		if call == "ssm:PutParameter" {
			puts++
		}
	}
	if puts != 1 {
		t.Errorf("%d writes of one state", puts)
	}
	if got := stateOf(t, open(t, a.withState(t, stateParam))); got != nodeState {
		t.Errorf("the next process reads %q", got)
	}
	if err := i.State.Save([]byte(`{"big":"` + strings.Repeat("x", 9000) + `"}`)); err == nil || !strings.Contains(err.Error(), "8192") {
		t.Errorf("a state that is too large: %v", err)
	}
	if err := i.State.Save([]byte(`{}`)); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	if log := a.log.String(); strings.Contains(log, "cHJpdmtl") {
		t.Errorf("the log has the state: %s", log)
	}
}

// TestParameterThatCannotBeRead expects the start to wait: a new node would take the place of
// the stored one.
func TestParameterThatCannotBeRead(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(addIdentities)
	a.Server.Fail("ssm:GetParameter", awstest.Denied("ssm:GetParameter", stateParam))
	b := a.withState(t, stateParam)
	opened := make(chan *identity.Identity, 1)
	go func() { i, _ := b.Identity(t.Context()); opened <- i }()
	awaitWaiting(t, b, problem.CredentialDenied, "allow ssm:GetParameter")
	a.Server.Fail("ssm:GetParameter", awstest.Failure{})
	if i := <-opened; stateOf(t, i) != "" || b.IdentityWaiting() != nil {
		t.Errorf("waiting for %v", b.IdentityWaiting())
	}
}

// TestSlots has four tasks share two slots.
func TestSlots(t *testing.T) {
	for _, state := range []string{"dynamodb:routers", "dynamodb:routers?kms=" + stateKey, "dynamodb:arn:aws:dynamodb:eu-west-1:123456789012:table/routers/vpn?slots=2"} {
		t.Run(state, func(t *testing.T) {
			first := start(t, member(1))
			first.Server.Update(addIdentities)
			one := open(t, first.withState(t, state))
			two := open(t, first.another(t, member(2)).withState(t, state))
			if one.Slot.Number() != 0 || two.Slot.Number() != 1 || one.Slot.Slots != 2 || one.Slot.Service != "vpn" {
				t.Fatalf("slots %d and %d of %d of %s", one.Slot.Number(), two.Slot.Number(), one.Slot.Slots, one.Slot.Service)
			}
			for range 2 {
				if err := one.State.Save([]byte(nodeState)); err != nil {
					t.Fatal(err)
				}
			}
			stored := fmt.Sprintf("%s", first.Items("routers")[0]["state"])
			if encrypted := strings.Contains(state, "kms="); strings.Contains(stored, "S3CR3T") || encrypted && !strings.HasPrefix(stored, "\x02") {
				t.Errorf("the table has %q", stored)
			}

			third := first.another(t, member(3))
			waiting := third.withState(t, state)
			opened := make(chan *identity.Identity, 1)
			go func() { i, _ := waiting.Identity(t.Context()); opened <- i }()
			awaitWaiting(t, waiting, problem.NoSlot, "all slots are leased by other processes, 2 in all")
			if err := one.Slot.Release(t.Context(), slot.Stays); err != nil {
				t.Fatal(err)
			}
			three := <-opened
			if three.Slot.Number() != 0 || stateOf(t, three) != nodeState {
				t.Errorf("slot %d with state %q", three.Slot.Number(), stateOf(t, three))
			}
			if err := one.State.Save([]byte("{}")); !errors.Is(err, slot.ErrLost) {
				t.Errorf("a state of a released slot was stored: %v", err)
			}

			// A crash: the slot is free once ECS reports the task as stopped.
			fourth := first.another(t, member(4)).withState(t, state)
			go func() { i, _ := fourth.Identity(t.Context()); opened <- i }()
			awaitWaiting(t, fourth, problem.NoSlot, "all slots")
			first.Server.Update(func(w *awstest.World) {
				w.Clusters["network"].Tasks["3"] = awstest.TaskState{LastStatus: "DEPROVISIONING"}
			})
			select {
			case <-opened:
				t.Fatal("the slot of a task that has not stopped was taken")
			case <-time.After(1500 * time.Millisecond): // one or two tries
			}
			first.Server.Update(func(w *awstest.World) { w.Clusters["network"].Tasks["3"] = awstest.TaskState{LastStatus: "STOPPED"} })
			four := <-opened
			if four.Slot.Number() != 0 || stateOf(t, four) != nodeState {
				t.Errorf("slot %d with state %q", four.Slot.Number(), stateOf(t, four))
			}
			if err := three.State.Save([]byte("{}")); !errors.Is(err, slot.ErrLost) {
				t.Errorf("a state of the former holder was stored: %v", err)
			}
			select {
			case <-three.Lost():
			default:
				t.Error("the former holder does not know that it lost the slot")
			}
		})
	}
}

// TestContainerRestarts expects a process to continue with the slot of the one before it in
// the same container.
func TestContainerRestarts(t *testing.T) {
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	for range 3 {
		if i := open(t, a.withState(t, "dynamodb:routers?slots=5")); i.Slot.Number() != 0 {
			t.Fatalf("slot %d", i.Slot.Number())
		}
	}
}

// TestSealedStates expects a stored state to be readable only in its own slot and with its
// key, and a damaged one never to be replaced.
func TestSealedStates(t *testing.T) {
	const state = "dynamodb:routers?slots=2&kms=" + stateKey
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	i := open(t, a.withState(t, state))
	if err := i.State.Save([]byte(nodeState)); err != nil {
		t.Fatal(err)
	}
	if err := i.Slot.Release(t.Context(), slot.Stays); err != nil {
		t.Fatal(err)
	}
	sound := a.Items("routers")[0]
	sealed := sound["state"].([]byte)
	change := func(f func([]byte) []byte) awstest.Item {
		item := awstest.Item{}
		maps.Copy(item, a.Items("routers")[0])
		item["state"] = f(bytes.Clone(sealed))
		return item
	}
	for name, tc := range map[string]struct {
		state string
		item  awstest.Item
		code  problem.Code
		text  string
	}{
		"a changed byte":   {state, change(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), "", "damaged"},
		"cut off":          {state, change(func(b []byte) []byte { return b[:40] }), "", "damaged"},
		"empty":            {state, change(func([]byte) []byte { return []byte{} }), "", "damaged"},
		"unknown format":   {state, change(func(b []byte) []byte { b[0] = 9; return b }), "", "damaged"},
		"without the key":  {"dynamodb:routers?slots=2", sound, "", "add kms=KEY-ARN"},
		"with another key": {"dynamodb:routers?slots=2&kms=arn:aws:kms:eu-west-1:123456789012:key/other", sound, "", "use the KMS key with which"},
		"of another slot":  {"dynamodb:routers/other?slots=2&kms=" + stateKey, change(func(b []byte) []byte { return b }), "", "InvalidCiphertext"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(tc.state, "dynamodb:routers/other") {
				tc.item["service"] = "other"
			}
			a.PutItem("routers", tc.item)
			b := a.withState(t, tc.state)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { _, err := b.Identity(ctx); done <- err }()
			awaitWaiting(t, b, tc.code, tc.text)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			want := tc.item["state"].([]byte)
			if !slices.ContainsFunc(a.Items("routers"), func(item awstest.Item) bool { return bytes.Equal(item["state"].([]byte), want) }) {
				t.Error("the stored state was replaced")
			}
		})
	}
	a.PutItem("routers", sound)
	if got := stateOf(t, open(t, a.withState(t, state))); got != nodeState {
		t.Errorf("the sound state gives %q", got)
	}
}

// TestImport continues a node whose state was in a folder.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tailscaled.state"), []byte(nodeState), 0o600); err != nil {
		t.Fatal(err)
	}
	from := func(c *bootstrap.Config) { c.Identity.Import = dir }
	const state = "dynamodb:routers?slots=2"
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	i := open(t, a.withState(t, state, from))
	if i.Slot.Imported() == "" || stateOf(t, i) != nodeState {
		t.Errorf("imported %q from %q", stateOf(t, i), i.Slot.Imported())
	}
	if other := open(t, a.another(t, member(2)).withState(t, state, from)); other.Slot.Number() != 1 || stateOf(t, other) != "" {
		t.Errorf("slot %d has the state %q", other.Slot.Number(), stateOf(t, other))
	}
	if err := i.State.Save([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := i.Slot.Release(t.Context(), slot.Stays); err != nil {
		t.Fatal(err)
	}
	if i := open(t, a.withState(t, state, from)); i.Slot.Imported() != "" || stateOf(t, i) != "{}" {
		t.Errorf("the state was imported again: %q", stateOf(t, i))
	}
	// Other files are not imported.
	if err := os.WriteFile(filepath.Join(dir, "tailscaled.state"), []byte("not JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := a.withState(t, "dynamodb:routers/new?slots=1", from)
	go b.Identity(t.Context()) //nolint:errcheck // the reason of waiting matters
	awaitWaiting(t, b, "", "is not a state file")
}

// TestIdentityPolicies expects the policy of each kind to allow the calls that it makes.
func TestIdentityPolicies(t *testing.T) {
	for _, k := range identity.Kinds() {
		state := k.Example
		if k == identity.KindOf(identity.Folder("")) {
			state = t.TempDir()
		}
		a := start(t, member(1))
		a.Server.Update(addIdentities)
		edit := func(c *bootstrap.Config) { c.Credential = literal("tskey-auth-x") }
		b := a.withState(t, state, edit)
		i := open(t, b)
		if i.State != nil {
			if err := i.State.Save([]byte(nodeState)); err != nil {
				t.Fatal(err)
			}
		}
		if i.Slot != nil {
			third := a.another(t, member(3)).withState(t, "dynamodb:routers?slots=1", edit)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			third.Identity(ctx) //nolint:errcheck // it asks for the tasks
			cancel()
		}
		calls := a.Calls()
		slices.Sort(calls)
		calls = slices.Compact(calls)
		source, _ := identity.Parse(state)
		c := a.config("10.0.0.0/16")
		edit(&c)
		c.Identity.Source = source
		want := bootstrap.Actions(c, false)
		slices.Sort(want)
		if !slices.Equal(calls, want) {
			t.Errorf("%s:\ncalled  %v\nallowed %v", k.Syntax, calls, want)
		}
		policy, err := b.Policy(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		var allowed []string
		for _, s := range policy.Statement {
			allowed = append(allowed, s.Action...)
			for _, r := range s.Resource {
				if strings.Contains(r, "*") && r != "arn:aws:ecs:eu-west-1:123456789012:task/network/*" {
					t.Errorf("%s: the policy allows %s on %s", k.Syntax, s.Action, r)
				}
			}
		}
		slices.Sort(allowed)
		if !slices.Equal(allowed, want) {
			t.Errorf("%s: the policy allows %v, want %v", k.Syntax, allowed, want)
		}
	}
}

func TestScaledIn(t *testing.T) {
	const reason = "Scaling activity initiated by (deployment ecs-svc/1)"
	stopping := awstest.TaskState{LastStatus: "STOPPING", DesiredStatus: "STOPPED", StoppedReason: reason}
	done := []awstest.Deployment{{Status: "PRIMARY", RolloutState: "COMPLETED"}}
	for name, tc := range map[string]struct {
		service awstest.Service
		own     awstest.TaskState
		want    bool
	}{
		"smaller":                      {awstest.Service{Desired: 1, Running: 1, Deployments: done}, stopping, true},
		"smaller by two":               {awstest.Service{Desired: 1, Running: 1, Deployments: done}, awstest.TaskState{LastStatus: "DEACTIVATING", DesiredStatus: "STOPPED", StoppedReason: reason, StopCode: "ServiceSchedulerInitiated"}, true},
		"smaller, not recorded yet":    {awstest.Service{Desired: 1, Running: 2, Deployments: done}, awstest.TaskState{LastStatus: "RUNNING", DesiredStatus: "STOPPED"}, true},
		"to none":                      {awstest.Service{Desired: 0, Running: 0, Deployments: done}, stopping, true},
		"a deployment begins":          {awstest.Service{Desired: 1, Running: 2, Deployments: append([]awstest.Deployment{{Status: "PRIMARY", RolloutState: "IN_PROGRESS"}}, done...)}, stopping, false},
		"a deployment ends":            {awstest.Service{Desired: 1, Running: 1, Deployments: []awstest.Deployment{{Status: "PRIMARY", RolloutState: "IN_PROGRESS"}}}, stopping, false},
		"a deployment has ended":       {awstest.Service{Desired: 1, Running: 1, Deployments: []awstest.Deployment{{ID: "ecs-svc/2", Status: "PRIMARY", RolloutState: "COMPLETED"}}}, stopping, false},
		"a spot interruption":          {awstest.Service{Desired: 1, Running: 1, Deployments: done}, awstest.TaskState{LastStatus: "STOPPING", DesiredStatus: "STOPPED", StopCode: "SpotInterruption"}, false},
		"unhealthy, replaced first":    {awstest.Service{Desired: 1, Running: 1, Deployments: done}, awstest.TaskState{LastStatus: "STOPPING", DesiredStatus: "STOPPED", StoppedReason: "Task failed container health checks"}, false},
		"replaced afterwards":          {awstest.Service{Desired: 1, Running: 0, Deployments: done}, stopping, false},
		"stopped by hand":              {awstest.Service{Desired: 1, Running: 1, Deployments: done}, awstest.TaskState{LastStatus: "STOPPING", DesiredStatus: "STOPPED", StoppedReason: "Task stopped by user"}, false},
		"grows":                        {awstest.Service{Desired: 3, Running: 2, Deployments: done}, awstest.TaskState{LastStatus: "RUNNING"}, false},
		"a signal from something else": {awstest.Service{Desired: 1, Running: 2, Deployments: done}, awstest.TaskState{LastStatus: "RUNNING"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, member(1))
			a.Server.Update(addIdentities)
			a.Server.Update(func(w *awstest.World) {
				w.Clusters["network"].Services["vpn"], w.Clusters["network"].Tasks["1"] = tc.service, tc.own
			})
			got, err := bootstrap.New(a.config("10.0.0.0/16")).ScaledIn(t.Context())
			if err != nil || got.Smaller != tc.want || got.Last != (tc.want && tc.service.Desired == 0) || got.Why == "" {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	t.Run("denied", func(t *testing.T) {
		a := start(t, member(1))
		a.Server.Update(addIdentities)
		a.Server.Fail("ecs:DescribeServices", awstest.Denied("ecs:DescribeServices", "vpn"))
		got, err := bootstrap.New(a.config("10.0.0.0/16")).ScaledIn(t.Context())
		if code, _ := errors.AsType[awsapi.Code](err); got.Smaller || code != "AccessDeniedException" {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// TestExamineIdentity describes each kind of place, without changing it.
func TestExamineIdentity(t *testing.T) {
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	dir := t.TempDir()
	for state, want := range map[string]string{
		"mem:":             "in memory: each start is a new node",
		dir:                dir + "/tailscaled.state: no node yet",
		stateParam:         stateParam + ": no node yet",
		"dynamodb:routers": "2 slots of vpn, 0 of them leased",
		"dynamodb:missing": `table "missing"`,
	} {
		got, err := a.withState(t, state).ExamineIdentity(t.Context())
		if got != want && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v", state, got, err)
		}
	}
	if len(a.Items("routers")) != 0 {
		t.Error("the table was changed")
	}
	open(t, a.withState(t, "dynamodb:routers"))
	if got, err := a.withState(t, "dynamodb:routers").ExamineIdentity(t.Context()); got != "2 slots of vpn, 1 of them leased" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRetire ends the nodes of slots that a smaller service no longer has, and leaves the slots
// that tasks hold.
func TestRetire(t *testing.T) {
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	var held []*identity.Identity
	for n := 1; n <= 4; n++ {
		i := open(t, a.another(t, member(n)).withState(t, "dynamodb:routers?slots=4"))
		if err := errors.Join(i.State.Save([]byte(nodeState)), i.Slot.Describe(t.Context(), fmt.Sprint("edge-", n-1), fmt.Sprint("n", n-1, "CNTRL"))); err != nil {
			t.Fatal(err)
		}
		held = append(held, i)
	}
	for _, n := range []int{0, 1, 3} { // slot 2 is still held by a task of the larger service
		if err := held[n].Slot.Release(t.Context(), slot.Stays); err != nil {
			t.Fatal(err)
		}
	}
	small := open(t, a.withState(t, "dynamodb:routers?slots=2"))
	var removed []string
	remove := func(name, id string) bool { removed = append(removed, name+" "+id); return true }
	small.Slot.Retire(t.Context(), func(string, string) bool { return false }) // the API refuses
	if item := a.Items("routers")[3]; item["state"] == nil || item["holder"] != nil {
		t.Errorf("after a failure the slot has %v", slices.Sorted(maps.Keys(item)))
	}
	if i := open(t, a.another(t, member(2)).withState(t, "dynamodb:routers?slots=2")); i.Slot.Number() != 1 {
		t.Fatalf("slot %d", i.Slot.Number())
	}
	again := open(t, a.withState(t, "dynamodb:routers?slots=2"))
	again.Slot.Retire(t.Context(), remove)
	if !slices.Equal(removed, []string{"edge-3 n3CNTRL"}) {
		t.Errorf("removed %v", removed)
	}
	if item := a.Items("routers")[3]; item["state"] != nil || item["node"] != nil || item["holder"] != nil {
		t.Errorf("the retired slot has %v", slices.Sorted(maps.Keys(item)))
	}
	if err := held[2].State.Save([]byte("{}")); err != nil {
		t.Errorf("a task of the larger service lost its slot: %v", err)
	}
}
