// Package slot leases the identities of a service: n slots, each with the state of one node,
// which one process uses at a time. The slots are items of a table that is shared by all
// processes, and that makes conditional changes, such as DynamoDB.
//
// A lease lasts for [Term] and is renewed every renewEvery. A process takes a slot that is
// free, whose lease ended, or whose holder has stopped for certain: ECS reports its task as
// stopped, or it was an earlier process of the same container.
//
// These conditions keep two processes from using one identity:
//
//   - A lease has a number, which each change of holders increases, and a beat, which each
//     renewal increases. A process takes a slot only as long as both are as it read them.
//   - Each other change requires that the holder and the number of the lease are still the
//     writer's, and that its beat, or the version of the state, is larger than the stored one.
//     A request that arrives late, after a newer one or a change of holders, changes nothing.
//   - The holder counts its lease from before it sent the request, by a clock that also runs
//     while the process or the machine is suspended, and stops using the slot at the end: see
//     [Lease.Lost].
//   - Others compare the end, in the holder's wall clock, with their own, and wait for grace
//     more: clocks may be wrong by maxSkew each.
//
// An update without an answer may have been made, and may still be made at any later time.
// The process then reads the table again: if it has become the holder, it takes the slot
// once more, with a new number.
package slot

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// Term is the duration of a lease from its last renewal. An outage of the table that is
	// shorter has no effect.
	Term = 30 * time.Minute
	// MaxSlots bounds the slots of a service.
	MaxSlots = 100

	renewEvery = 30 * time.Second
	// maxSkew is how far the wall clock of a process may be from the right time.
	maxSkew = time.Minute
	// grace is how long after the end of a lease, by its own wall clock, another process
	// waits before it takes the slot: the skew of both clocks, and some seconds for clocks
	// that run at different rates.
	grace = 2*maxSkew + 10*time.Second
	// callTimeout bounds one call of the table or of ECS.
	callTimeout = 10 * time.Second
	// fenceEvery is the period of checks for the end of the lease.
	fenceEvery = 250 * time.Millisecond
	// tidyEvery is the period of reading all slots, for [Pool.Slots].
	tidyEvery = 5 * time.Minute
)

// Attributes are those of an item, by name. A value is a string, an int64 or a []byte.
type Attributes map[string]any

// Op is the comparison of an [Expect].
type Op int

// The comparisons. Less means that the stored value is less than the expected one.
const (
	Absent Op = iota
	Equal
	Less
)

// Expect is a condition on a stored attribute. An absent one is neither equal to nor less
// than any value.
type Expect struct {
	Name  string
	Op    Op
	Value any // unused for Absent
}

// Change is a change of one item, which is made entirely, if all conditions hold, or not at
// all.
type Change struct {
	Set    Attributes
	Remove []string
	Expect []Expect
}

// Table holds the slots of a service. Its methods may be called from any goroutine.
type Table interface {
	// List returns all items, including the effects of each change that was answered before
	// the call.
	List(ctx context.Context) ([]Attributes, error)
	// Update changes the item of a slot, which it creates if needed, and returns the whole
	// item after the change. The error is a [*Changed] if a condition does not hold; after
	// any other error the change may have been made, or may be made later.
	Update(ctx context.Context, slot int, c Change) (Attributes, error)
}

// Changed is the error of an update whose conditions do not hold.
type Changed struct {
	Stored Attributes // the item; nil if there is none
}

func (*Changed) Error() string { return "the slot was changed by another process" }

// Clock is the time of a process.
type Clock interface {
	// Now returns the time since an arbitrary moment. It advances while the process or the
	// machine is suspended, too.
	Now() time.Duration
	// Wall returns the time of day, which may be wrong and may jump.
	Wall() time.Time
	// Sleep waits for d, and reports whether it did: false means that ctx has ended.
	Sleep(ctx context.Context, d time.Duration) bool
}

// The attributes of an item. Those of the table's key are the table's.
const (
	// Number is the number of the slot. [Table.Update] sets it.
	Number = "slot"

	holder    = "holder"    // the ID of the process that holds the lease; absent if none does
	task      = "task"      // the ARN of its task; absent outside ECS
	container = "container" // the ID of its container; absent outside ECS
	lease     = "lease"     // the number of the lease
	beat      = "beat"      // the number of the renewal within the lease
	until     = "until"     // the end of the lease in milliseconds since 1970, by the holder's clock
	version   = "version"   // the version of the state
	state     = "state"     // opaque to this package
	node      = "node"      // the name of the node, for people
	nodeID    = "node_id"   // its ID at control
	departed  = "departed"  // 1 if the node logged out when the service became smaller
)

// Slot describes a slot for people.
type Slot struct {
	Number int
	// Holder is the ID of the process that holds the lease, and Task the ARN of its task;
	// "" if there is none.
	Holder, Task string
	// Until is the end of the lease by the holder's clock.
	Until time.Time
	// Node is the name of the last node of the slot; "" if it had none.
	Node string
	// Departed reports that the node is logged out but still listed in the tailnet.
	Departed bool
}

// item is a decoded item of the table.
type item struct {
	number                        int
	holder, task, container, node string
	nodeID                        string
	lease, beat, version          int64
	until                         time.Time
	state                         []byte
	departed                      bool
}

var errMalformed = errors.New("an attribute has the wrong type")

// decode reads an item, which another program may have written.
func decode(a Attributes) (it item, err error) {
	text := func(name string) string {
		s, ok := a[name].(string)
		if _, is := a[name]; is && !ok {
			err = fmt.Errorf("reading attribute %q: %w", name, errMalformed)
		}
		return s
	}
	number := func(name string) int64 {
		n, ok := a[name].(int64)
		if _, is := a[name]; is && (!ok || n < 0) {
			err = fmt.Errorf("reading attribute %q: %w", name, errMalformed)
		}
		return n
	}
	it = item{
		number: int(number(Number)), holder: text(holder), task: text(task), container: text(container), node: text(node), nodeID: text(nodeID),
		lease: number(lease), beat: number(beat), version: number(version), until: time.UnixMilli(number(until)),
		departed: number(departed) == 1,
	}
	var ok bool
	if it.state, ok = a[state].([]byte); !ok && a[state] != nil {
		err = fmt.Errorf("reading attribute %q: %w", state, errMalformed)
	}
	return it, err
}

func (it item) describe() Slot {
	s := Slot{Number: it.number, Holder: it.holder, Task: it.task, Node: it.node, Departed: it.departed}
	if it.holder != "" {
		s.Until = it.until
	}
	return s
}

// expired reports whether the lease has ended by any clock within maxSkew.
func (it item) expired(wall time.Time) bool { return wall.After(it.until.Add(grace)) }
