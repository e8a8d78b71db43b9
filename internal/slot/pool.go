package slot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/backoff"
)

// Config describes a process and the slots that it may lease. A comment gives the default
// that a field's zero value stands for.
type Config struct {
	// Slots is the number of slots, 1 to [MaxSlots]. The process leases one of 0 to Slots-1.
	Slots int
	Table Table
	// Holder is the ID of this process. No two processes have the same.
	Holder string
	// Task and Container are the ARN of the ECS task and the ID of the container.
	// Default: not on ECS, and the slots of earlier processes are free when their leases end.
	Task, Container string
	// Stopped returns those of the tasks that ECS reports as stopped. Default: none is.
	Stopped func(ctx context.Context, tasks []string) ([]string, error)
	Clock   Clock
	// Jitter varies a pause at random. Default: by up to a quarter.
	Jitter func(time.Duration) time.Duration
	Logger *slog.Logger
}

// Pool holds the slots of a service, of which this process leases one.
type Pool struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex // covers the fields below
	slots   []Slot     // as read last
	surplus []item     // free slots with a node that the service no longer has, as read last
}

// ErrNoSlot is the reason of [Pool.Acquire] while other processes hold all slots.
var ErrNoSlot = errors.New("all slots are leased")

// New returns a pool. It does not call the table.
func New(cfg Config) *Pool {
	if cfg.Jitter == nil {
		cfg.Jitter = func(d time.Duration) time.Duration { return backoff.Jitter(d, backoff.Retry) }
	}
	return &Pool{cfg: cfg, log: cfg.Logger}
}

// Slots returns the slots in the order of their numbers, as they were read last: at the
// acquisition, and every tidyEvery.
func (p *Pool) Slots() []Slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.slots)
}

// Acquire waits for a slot and leases it. After each try that failed it calls waiting with the
// reason. The error is that of ctx. The caller runs the lease: see [Lease.Run].
func (p *Pool) Acquire(ctx context.Context, waiting func(error)) (*Lease, error) {
	pause := backoff.Backoff{First: time.Second, Max: 10 * time.Second}
	for {
		l, err := p.try(ctx)
		switch {
		case err == nil:
			p.log.Info("slot leased", "slot", l.number, "lease", l.lease)
			return l, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		waiting(err)
		p.cfg.Clock.Sleep(ctx, p.cfg.Jitter(pause.Next()))
	}
}

// try leases a slot if there is one, in this order: the slot of an earlier process of this
// container, a free one, and one whose task has stopped. ECS is asked only if there is none of
// the first two.
func (p *Pool) try(ctx context.Context) (*Lease, error) {
	items, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	wall := p.cfg.Clock.Wall()
	var own, free, held []item
	for _, it := range items {
		switch {
		case it.holder == "":
			free = append(free, it)
		case p.formerly(it):
			own = append(own, it)
		case it.expired(wall):
			free = append(free, it)
		default:
			held = append(held, it)
		}
	}
	if l, err := p.takeFirst(ctx, append(own, free...)); l != nil || err != nil {
		return l, err
	}
	stopped, askErr := p.stopped(ctx, held)
	if l, err := p.takeFirst(ctx, stopped); l != nil || err != nil {
		return l, err
	}
	if askErr != nil {
		return nil, errors.Join(p.noSlot(), askErr)
	}
	return nil, p.noSlot()
}

// noSlot returns the error for a try that found held slots only. Its text is the same at
// each try, so that it is logged once.
func (p *Pool) noSlot() error {
	return fmt.Errorf("%w by other processes, %d in all", ErrNoSlot, p.cfg.Slots)
}

// formerly reports whether an earlier process of this container holds the lease, or this one
// by a request that was not answered. The processes of a container end together.
func (p *Pool) formerly(it item) bool {
	return it.holder == p.cfg.Holder ||
		p.cfg.Task != "" && p.cfg.Container != "" && it.task == p.cfg.Task && it.container == p.cfg.Container
}

// List returns the slots of a table in the order of their numbers, at most [MaxSlots].
func List(ctx context.Context, t Table) ([]Slot, error) {
	p := New(Config{Table: t})
	_, err := p.list(ctx)
	return p.Slots(), err
}

// list reads the slots in the order of their numbers. A slot that was never leased is an
// item without a holder.
func (p *Pool) list(ctx context.Context) ([]item, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := p.cfg.Table.List(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]item, p.cfg.Slots)
	for i := range items {
		items[i].number = i
	}
	var surplus []item
	all := make([]Slot, 0, len(list))
	for _, a := range list {
		it, err := decode(a)
		if err != nil {
			return nil, fmt.Errorf("reading slot %v: %w", a[Number], err)
		}
		all = append(all, it.describe())
		if it.number < len(items) {
			items[it.number] = it
		} else if it.number < MaxSlots && it.nodeID != "" && it.holder == "" {
			surplus = append(surplus, it)
		}
	}
	slices.SortFunc(all, func(a, b Slot) int { return cmp.Compare(a.Number, b.Number) })
	all = all[:min(len(all), MaxSlots)]
	p.mu.Lock()
	p.slots, p.surplus = all, surplus
	p.mu.Unlock()
	return items, nil
}

// stopped returns those of items whose tasks ECS reports as stopped.
func (p *Pool) stopped(ctx context.Context, items []item) ([]item, error) {
	var tasks []string
	for _, it := range items {
		if it.task != "" && it.task != p.cfg.Task {
			tasks = append(tasks, it.task)
		}
	}
	if p.cfg.Stopped == nil || len(tasks) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ended, err := p.cfg.Stopped(ctx, tasks)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(items), func(it item) bool { return it.task == "" || !slices.Contains(ended, it.task) }), nil
}

// Retire ends the nodes of free slots that the service no longer has, as they were read last. It
// leases each of them, calls remove with the name and the ID of the node, and deletes the state
// if remove reports success.
func (p *Pool) Retire(ctx context.Context, remove func(name, id string) bool) {
	p.mu.Lock()
	list := p.surplus
	p.surplus = nil
	p.mu.Unlock()
	for _, it := range list {
		l, err := p.take(ctx, it)
		if err != nil {
			continue // another process has it, or the next reading of the slots shows it again
		}
		d := Stays
		if remove(it.node, it.nodeID) {
			d = Removed
		}
		release, cancel := context.WithTimeout(ctx, callTimeout)
		l.Release(release, d) //nolint:errcheck // then it becomes free at the end of the lease
		cancel()
	}
}

// takeFirst leases the first of the slots that no other process takes meanwhile. It returns
// nil and no error if there is none.
func (p *Pool) takeFirst(ctx context.Context, items []item) (*Lease, error) {
	for _, it := range items {
		l, err := p.take(ctx, it)
		if _, changed := errors.AsType[*Changed](err); changed {
			continue
		}
		return l, err
	}
	return nil, nil
}

// take leases a slot if it is as it was read.
func (p *Pool) take(ctx context.Context, seen item) (*Lease, error) {
	c := Change{
		Set: Attributes{holder: p.cfg.Holder, lease: seen.lease + 1, beat: int64(0)},
	}
	for name, value := range map[string]string{task: p.cfg.Task, container: p.cfg.Container} {
		if value != "" {
			c.Set[name] = value
		} else {
			c.Remove = append(c.Remove, name)
		}
	}
	if seen.lease == 0 {
		c.Expect = []Expect{{Name: lease, Op: Absent}}
		c.Set[version] = int64(0) // so that every version is larger than a stored one
	} else {
		c.Expect = []Expect{{lease, Equal, seen.lease}, {beat, Equal, seen.beat}}
	}
	l := &Lease{pool: p, number: seen.number, lease: seen.lease + 1, lost: make(chan struct{})}
	end := p.nextEnd(&c)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stored, err := p.cfg.Table.Update(ctx, seen.number, c)
	if changed, ok := errors.AsType[*Changed](err); ok && l.mine(changed.Stored) {
		stored, err = changed.Stored, nil // the first of two attempts was made
	}
	if err != nil {
		return nil, err
	}
	it, err := decode(stored)
	if err != nil {
		return nil, fmt.Errorf("reading slot %d: %w", seen.number, err)
	}
	l.end, l.version, l.state = end, it.version, it.state
	return l, nil
}

// nextEnd adds the end of a lease that is taken or renewed now to a change, and returns it.
func (p *Pool) nextEnd(c *Change) end {
	e := end{p.cfg.Clock.Now() + Term, p.cfg.Clock.Wall().Add(Term)}
	c.Set[until] = e.wall.UnixMilli()
	return e
}
