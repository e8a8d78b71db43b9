package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/slot"
)

var slots = &Kind{
	Syntax:  "dynamodb:TABLE",
	Help:    "a table with an identity for each of several routers; /PREFIX separates services, and ?slots=N and kms=KEY-ARN set the number of identities and the KMS key for their states",
	Example: "dynamodb:routers",
	Lasting: true, parse: parseSlots,
}

// slotsSource keeps the states of several routers in a table.
type slotsSource struct {
	table  string // name or ARN
	prefix string // the partition key; "" means the name of the ECS service
	slots  int    // 0 means that it follows from the ECS service
	kmsKey string // an ARN; "" means that DynamoDB's own encryption is enough
}

var (
	tableName = regexp.MustCompile(`^[A-Za-z0-9_.-]{3,255}$`)
	prefixes  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)
)

func parseSlots(value string) (Source, bool, error) {
	rest, mine := strings.CutPrefix(value, "dynamodb:")
	if !mine {
		return nil, false, nil
	}
	path, query, _ := strings.Cut(rest, "?")
	s := slotsSource{table: path}
	lead := ""
	if arn, ok := awsapi.ParseARN(path); ok {
		name, isTable := strings.CutPrefix(arn.Resource, "table/")
		if arn.Service != "dynamodb" || !isTable {
			return nil, true, fmt.Errorf("%q is not the ARN of a DynamoDB table: write dynamodb:TABLE, or dynamodb:arn:aws:dynamodb:REGION:ACCOUNT:table/TABLE", path)
		}
		lead, path = strings.TrimSuffix(path, name), name
	}
	name, prefix, has := strings.Cut(path, "/")
	var errs []error
	if !tableName.MatchString(name) {
		errs = append(errs, fmt.Errorf("%q is not the name of a DynamoDB table: use 3 to 255 letters, digits, _, - and dots", name))
	}
	if has && !prefixes.MatchString(prefix) {
		errs = append(errs, fmt.Errorf("%q is not a prefix: use up to 255 letters, digits, _, - and dots after dynamodb:%s/", prefix, name))
	}
	s.table, s.prefix = lead+name, prefix
	options, err := url.ParseQuery(query)
	if err != nil {
		errs = append(errs, fmt.Errorf("the options %q are malformed: write ?slots=N&kms=KEY-ARN", query))
	}
	for option, values := range options {
		v := values[len(values)-1]
		switch option {
		case "slots":
			if s.slots, err = strconv.Atoi(v); err != nil || s.slots < 1 || s.slots > slot.MaxSlots || len(values) > 1 {
				errs = append(errs, fmt.Errorf("slots=%q is not a number of identities: write one number from 1 to %d", v, slot.MaxSlots))
			}
		case "kms":
			key, ok := awsapi.ParseARN(v)
			if s.kmsKey = v; !ok || key.Service != "kms" || !strings.HasPrefix(key.Resource, "key/") || len(values) > 1 {
				errs = append(errs, fmt.Errorf("kms=%q is not the ARN of a KMS key: write one such as arn:aws:kms:eu-west-1:123456789012:key/KEY-ID", v))
			}
		default:
			errs = append(errs, fmt.Errorf("the option %q is unknown: use slots and kms", option))
		}
	}
	return s, true, errors.Join(errs...)
}

func (s slotsSource) String() string {
	text := "dynamodb:" + s.table
	if s.prefix != "" {
		text += "/" + s.prefix
	}
	mark := "?"
	if s.slots > 0 {
		text += mark + "slots=" + strconv.Itoa(s.slots)
		mark = "&"
	}
	if s.kmsKey != "" {
		text += mark + "kms=" + s.kmsKey
	}
	return text
}

func (slotsSource) kind() *Kind { return slots }

// NeedsPlace returns the parts of a source that cannot be derived outside ECS, for the
// configuration check; "" if there are none.
func NeedsPlace(s Source) string {
	d, ok := s.(slotsSource)
	switch {
	case !ok || d.prefix != "" && d.slots > 0:
		return ""
	case d.prefix == "" && d.slots == 0:
		return "a prefix and the number of slots, as in dynamodb:TABLE/PREFIX?slots=2"
	case d.prefix == "":
		return "a prefix, as in dynamodb:TABLE/PREFIX"
	}
	return "the number of slots, as in ?slots=2"
}

func (s slotsSource) Needs() []iam.Need {
	keep := func(scope iam.Scope) []iam.Statement {
		table := s.table
		if _, byARN := awsapi.ParseARN(table); !byARN {
			table = scope.ARN("dynamodb", scope.Account, "table/"+table)
		}
		list := []iam.Statement{{
			Sid: "KeepIdentities", Effect: "Allow",
			Action: []string{awsapi.Query.Name, awsapi.UpdateItem.Name}, Resource: []string{table},
		}}
		if s.kmsKey != "" {
			list = append(list, encryptState(s.kmsKey))
		}
		return list
	}
	// The statement of the first action has the others of the same resource.
	none := func(iam.Scope) []iam.Statement { return nil }
	needs := []iam.Need{{Action: awsapi.Query, Allow: keep}, {Action: awsapi.UpdateItem, Allow: none}}
	if s.kmsKey != "" {
		needs = append(needs, iam.Need{Action: awsapi.GenerateDataKey, Allow: none}, iam.Need{Action: awsapi.Decrypt, Allow: none})
	}
	return append(needs, iam.SeeService()...)
}

// Slot is a leased slot, with the state of its node.
type Slot struct {
	// Slots is the number of slots of the service, and Service the prefix that separates it
	// from others.
	Slots   int
	Service string

	pool   *slot.Pool
	lease  *slot.Lease
	sealer *sealer

	mu       sync.Mutex // covers text
	text     []byte     // of the stored state; nil if there is none
	imported string     // the file that text comes from, until it is stored; constant
}

// complete returns the source with the parts that follow from the task's service, and the
// client and the place with which it found them.
func (s slotsSource) complete(ctx context.Context, c Config) (slotsSource, *awsapi.Client, place.Place, error) {
	client, err := c.Place.AWS(ctx)
	if err != nil {
		return s, nil, place.Place{}, err
	}
	p, err := c.Place.Place(ctx)
	if err != nil {
		return s, nil, p, err
	}
	if s.prefix == "" {
		if s.prefix = p.Service; s.prefix == "" {
			return s, nil, p, problem.New("write dynamodb:TABLE/PREFIX in ROUTER_STATE", "finding the slots of this service: task metadata names no service")
		}
	}
	if s.slots == 0 {
		s.slots, err = derivedSlots(ctx, client, p.Cluster, p.Service)
	}
	return s, client, p, err
}

func (s slotsSource) examine(ctx context.Context, c Config) (string, error) {
	s, client, _, err := s.complete(ctx, c)
	if err != nil {
		return "", err
	}
	list, err := slot.List(ctx, leaseTable{client, s.table, s.prefix})
	if err != nil {
		return "", err
	}
	held := 0
	for _, one := range list {
		if one.Holder != "" {
			held++
		}
	}
	return fmt.Sprintf("%d slots of %s, %d of them leased", s.slots, s.prefix, held), nil
}

func (s slotsSource) open(ctx context.Context, c Config, waiting func(error)) (*Identity, error) {
	s, client, p, err := s.complete(ctx, c)
	if err != nil {
		return nil, err
	}
	out := &Slot{Slots: s.slots, Service: s.prefix}
	cfg := slot.Config{
		Slots: out.Slots, Table: leaseTable{client, s.table, out.Service}, Holder: rand.Text(), Task: p.ARN, Container: cmp.Or(p.ContainerARN, p.ContainerID),
		Clock: c.Clock, Logger: c.Logger,
	}
	if c.Place.OnECS() {
		cfg.Stopped = func(ctx context.Context, tasks []string) ([]string, error) {
			return stoppedTasks(ctx, client, p.ARN, p.Cluster, tasks)
		}
	}
	out.pool = slot.New(cfg)
	if out.lease, err = out.pool.Acquire(ctx, func(why error) { waiting(slotProblem(why)) }); err != nil {
		return nil, err
	}
	out.sealer = &sealer{client: client, kmsKey: s.kmsKey, service: out.Service, slot: out.lease.Number()}
	if err := out.load(ctx, c.Import); err != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		out.lease.Release(release, slot.Stays) //nolint:errcheck // then it becomes free at the end of the lease
		return nil, err
	}
	if out.lease.Expired() { // reading a file, or AWS's answers, took half an hour
		return nil, problem.New("", "opening slot %d of %s: %w", out.lease.Number(), out.Service, slot.ErrLost)
	}
	return &Identity{State: out, Slot: out}, nil
}

// slotProblem adds the fix to a reason of waiting.
func slotProblem(err error) error {
	if !errors.Is(err, slot.ErrNoSlot) {
		return err
	}
	return &problem.Problem{
		Code: problem.NoSlot, Message: err.Error(), Err: err,
		Fix: "none if a deployment replaces a task, whose slot becomes free; else raise slots= in ROUTER_STATE: at 200 % a deployment needs twice the desired number",
	}
}

// derivedSlots returns how many tasks the service has at most, during a deployment.
func derivedSlots(ctx context.Context, client *awsapi.Client, cluster, service string) (int, error) {
	if service == "" {
		return 0, problem.New("write ?slots=N in ROUTER_STATE", "finding the number of slots: task metadata names no service")
	}
	state, err := client.Service(ctx, cluster, service)
	if err != nil {
		return 0, problem.Wrapf(err, "finding the number of slots, which ?slots=N in ROUTER_STATE would give")
	}
	return min(max(1, state.Desired*state.MaximumPercent/100), slot.MaxSlots), nil
}

// stoppedTasks returns those of tasks that ECS reports as stopped. A task that ECS does not
// know is not among them: the tasks of a cluster become known with a delay.
//
// Tasks of other clusters are left out, as ECS would refuse the whole call.
func stoppedTasks(ctx context.Context, client *awsapi.Client, own, cluster string, tasks []string) ([]string, error) {
	siblings := own[:strings.LastIndex(own, "/")+1]
	tasks = slices.DeleteFunc(slices.Clone(tasks), func(t string) bool { return !strings.HasPrefix(t, siblings) })
	if len(tasks) == 0 {
		return nil, nil
	}
	states, err := client.Tasks(ctx, cluster, tasks)
	var stopped []string
	for task, s := range states {
		if s.LastStatus == "STOPPED" {
			stopped = append(stopped, task)
		}
	}
	return stopped, err
}

// load opens the stored state. An empty first slot takes the state in the file that
// ROUTER_STATE_IMPORT names.
func (s *Slot) load(ctx context.Context, from string) error {
	if sealed := s.lease.State(); sealed != nil {
		text, err := s.sealer.open(ctx, sealed)
		if errors.Is(err, errSealed) {
			return problem.New("restore the table from a backup, or remove the attribute state of the item to start with a new node", "opening slot %d of %s: %w", s.lease.Number(), s.Service, err)
		}
		s.text = text
		return err
	}
	if from == "" || s.lease.Number() != 0 {
		return nil
	}
	old := file(from + "/" + stateFile)
	text, err := old.Load()
	switch {
	case err != nil:
		return problem.New("let the task's user read it, or remove ROUTER_STATE_IMPORT", "importing the node of ROUTER_STATE_IMPORT: %w", err)
	case len(text) == 0:
		return nil
	case !json.Valid(text) || len(text) > maxState:
		return problem.New("name the folder of a router or of tailscaled, or remove ROUTER_STATE_IMPORT", "importing the node of ROUTER_STATE_IMPORT: %s is not a state file", old)
	}
	// Stored at once: the file must not be imported again once the node has new keys.
	if err := s.Save(text); err != nil {
		return problem.Wrapf(err, "importing the node of ROUTER_STATE_IMPORT")
	}
	s.imported = string(old)
	return nil
}

// Number returns the number of the slot.
func (s *Slot) Number() int { return s.lease.Number() }

// Imported returns the file from which the state was imported; "" if it was not.
func (s *Slot) Imported() string { return s.imported }

// LeaseEnd returns when the lease ends unless it is renewed.
func (s *Slot) LeaseEnd() time.Time { return s.lease.End() }

// Why returns the reason for which the lease was lost; nil if it was not.
func (s *Slot) Why() error { return s.lease.Why() }

// All returns all slots of the service, as they were read last.
func (s *Slot) All() []slot.Slot { return s.pool.Slots() }

// Describe stores the name and the ID of the node, for people who look at the table or at
// another router's status, and for Retire.
func (s *Slot) Describe(ctx context.Context, name, id string) error {
	return s.lease.Describe(ctx, name, id)
}

// Retire ends the nodes of slots that the service no longer has, because it became smaller. It
// leases each of them that is free, calls remove with the name and the ID of its node, and
// deletes the state if remove reports success.
func (s *Slot) Retire(ctx context.Context, remove func(name, id string) bool) {
	s.pool.Retire(ctx, remove)
}

// Release ends the lease. The caller has stopped using the identity.
func (s *Slot) Release(ctx context.Context, d slot.Departure) error { return s.lease.Release(ctx, d) }

// String implements [State].
func (s *Slot) String() string { return fmt.Sprintf("slot %d of %s", s.lease.Number(), s.Service) }

// Load implements [State].
func (s *Slot) Load() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text, nil
}

// Save implements [State]. It writes only changes.
func (s *Slot) Save(text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(text, s.text) {
		return nil
	}
	if len(text) > maxState {
		return problem.New("log the node out, so that it starts with a new state", "the state has %d bytes, more than %d", len(text), maxState)
	}
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	sealed, err := s.sealer.seal(ctx, text)
	if err != nil {
		return err
	}
	if err := s.lease.Save(ctx, sealed); err != nil {
		s.text = nil // it may have been stored
		return err
	}
	s.text = bytes.Clone(text)
	return nil
}

// Imports reports whether ROUTER_STATE_IMPORT has an effect with a source.
func Imports(s Source) bool {
	_, ok := s.(slotsSource)
	return ok
}
