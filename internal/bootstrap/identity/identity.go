// Package identity opens the place where the node's identity is kept, which ROUTER_STATE
// selects: one file per kind of place, all registered in kinds.
//
// An identity is the node's state, a few kilobytes with its private keys, and for a slot of
// a table its number. It is opened before the engine starts, which may take as long as AWS
// does not answer or other tasks hold all slots.
package identity

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/slot"
)

// kinds are all kinds of places. Parsing tries them in this order. Configuration check, help,
// IAM policy, doctor and documentation derive from this table and from [Source].
var kinds = []*Kind{memory, folder, parameter, slots}

// Kind is a kind of place, defined in a file of its own.
type Kind struct {
	Syntax string // "dynamodb:TABLE"
	Help   string // its meaning: a phrase that follows Syntax in parentheses
	// Example is a value of this kind, for tests.
	Example string
	// Lasting reports that the identity outlasts the process.
	Lasting bool
	// Small reports that the place has room for the state of a node alone.
	Small bool
	// One reports that only one router may use the place at a time.
	One bool
	// parse parses a value of ROUTER_STATE. mine reports whether it is of this kind; only
	// then err matters.
	parse func(value string) (s Source, mine bool, err error)
}

// Source is a value of ROUTER_STATE. Sources are comparable.
type Source interface {
	// String returns the source as [Parse] reads it.
	String() string
	kind() *Kind
	// Needs returns the AWS actions that the source calls.
	Needs() []iam.Need
	// open opens the place. It waits for nothing but AWS's answers, except for a free slot,
	// for which it calls waiting with the reason. An error may be temporary.
	open(ctx context.Context, c Config, waiting func(error)) (*Identity, error)
	// examine reads the place without changing it, and describes it.
	examine(ctx context.Context, c Config) (string, error)
}

// Parse parses a value of ROUTER_STATE.
func Parse(value string) (Source, error) {
	for _, k := range kinds {
		if s, mine, err := k.parse(value); mine {
			return s, err
		}
	}
	return nil, fmt.Errorf("%q is not a place for state: use %s", value, Syntaxes())
}

// Kinds returns all kinds of places.
func Kinds() []*Kind { return slices.Clone(kinds) }

// KindOf returns the kind of a source.
func KindOf(s Source) *Kind { return s.kind() }

// Lasting reports whether the identity outlasts the process. A nil source is in memory.
func Lasting(s Source) bool { return s != nil && s.kind().Lasting }

// HasRoom reports whether the place keeps some 10 KB more than the state of a node. A nil source keeps nothing.
func HasRoom(s Source) bool { return s != nil && !s.kind().Small }

// Syntaxes lists the syntax of all kinds.
func Syntaxes() string {
	var list []string
	for _, k := range kinds {
		list = append(list, k.Syntax)
	}
	return problem.Choice(list)
}

// Help describes all kinds.
func Help() string {
	var list []string
	for _, k := range kinds {
		list = append(list, k.Syntax+" ("+k.Help+")")
	}
	return strings.Join(list, ", ")
}

// Settings are the part of the configuration that selects the identity.
type Settings struct {
	Source Source // ROUTER_STATE; nil means in memory
	Import string // ROUTER_STATE_IMPORT, an absolute path; "" means none
}

// Needs returns the AWS actions that opening and keeping the identity calls.
func (s Settings) Needs() []iam.Need {
	if s.Source == nil {
		return nil
	}
	return s.Source.Needs()
}

// Config describes a [Provider].
type Config struct {
	Settings
	Place  *place.Finder // for the task, and for AWS calls
	Logger *slog.Logger
	// Clock is the clock of leases. Default: the machine's.
	Clock slot.Clock
}

// State keeps the text of the node's state: see tailnet.State.
type State interface {
	Load() ([]byte, error)
	Save(text []byte) error
	String() string
}

// Identity is an opened identity.
type Identity struct {
	// State is nil for an identity in memory.
	State State
	// Slot is the lease of a slot; nil for other kinds.
	Slot *Slot
}

// Lost is closed when the process must stop using the identity at once. It is nil, and so
// never closed, for kinds without leases.
func (i *Identity) Lost() <-chan struct{} {
	if i.Slot == nil {
		return nil
	}
	return i.Slot.lease.Lost()
}

// Run keeps the identity until ctx ends.
func (i *Identity) Run(ctx context.Context) {
	if i.Slot != nil {
		i.Slot.lease.Run(ctx)
	}
}

// Provider opens the identity.
type Provider struct {
	cfg Config

	mu      sync.Mutex // covers waiting
	waiting error      // why Open has not returned; nil before the first failure
}

// New returns a provider. It opens nothing.
func New(cfg Config) *Provider {
	if cfg.Source == nil {
		cfg.Source = Memory{}
	}
	if cfg.Clock == nil {
		cfg.Clock = slot.SystemClock{}
	}
	return &Provider{cfg: cfg}
}

// Examine reads the place of the identity without changing it, and describes it.
func (p *Provider) Examine(ctx context.Context) (string, error) {
	return p.cfg.Source.examine(ctx, p.cfg)
}

// Waiting returns why [Provider.Open] has not returned yet, or nil.
func (p *Provider) Waiting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

func (p *Provider) setWaiting(err error) {
	p.mu.Lock()
	before := p.waiting
	p.waiting = err
	p.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		p.cfg.Logger.Warn("the node's identity is not available yet; retrying", "state", p.cfg.Source.String(), "err", err)
	}
}

// Open waits until the identity is available. The error is that of ctx.
func (p *Provider) Open(ctx context.Context) (*Identity, error) {
	pause := backoff.Backoff{First: time.Second, Max: 15 * time.Second, Share: backoff.Retry}
	for {
		i, err := p.cfg.Source.open(ctx, p.cfg, p.setWaiting)
		if err == nil {
			p.setWaiting(nil)
			return i, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p.setWaiting(err)
		backoff.Sleep(ctx, pause.Next())
	}
}
