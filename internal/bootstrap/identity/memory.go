package identity

import (
	"context"

	"subnetrouter/internal/bootstrap/iam"
)

var memory = &Kind{
	Syntax: "mem:", Help: "in memory: an ephemeral node, new at every start", Example: "mem:",
	parse: func(value string) (Source, bool, error) { return Memory{}, value == "mem:", nil },
}

// Memory keeps no identity: each process is a new node.
type Memory struct{}

// String implements [Source].
func (Memory) String() string { return "mem:" }
func (Memory) kind() *Kind    { return memory }

// Needs implements [Source].
func (Memory) Needs() []iam.Need { return nil }

func (Memory) open(context.Context, Config, func(error)) (*Identity, error) {
	return &Identity{}, nil
}

func (Memory) examine(context.Context, Config) (string, error) {
	return "in memory: each start is a new node", nil
}
