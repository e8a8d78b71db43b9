package identity

import (
	"context"
	"errors"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/slot"
)

// The key of the table, to which the Terraform module is bound.
const (
	partitionKey = "service" // a string
	sortKey      = slot.Number
)

// leaseTable is the DynamoDB table of the slots of one service. It implements [slot.Table].
type leaseTable struct {
	client  *awsapi.Client
	table   string
	service string
}

// List implements [slot.Table].
func (t leaseTable) List(ctx context.Context) ([]slot.Attributes, error) {
	items, err := t.client.QueryItems(ctx, t.table, partitionKey, t.service)
	list := make([]slot.Attributes, len(items))
	for i, item := range items {
		list[i] = slot.Attributes(item)
	}
	return list, err
}

var operators = map[slot.Op]awsapi.ExpectOp{slot.Absent: awsapi.Absent, slot.Equal: awsapi.Equal, slot.Less: awsapi.Less}

// Update implements [slot.Table].
func (t leaseTable) Update(ctx context.Context, number int, c slot.Change) (slot.Attributes, error) {
	u := awsapi.ItemUpdate{
		Table: t.table, Key: awsapi.Item{partitionKey: t.service, sortKey: int64(number)},
		Set: awsapi.Item(c.Set), Remove: c.Remove,
	}
	for _, e := range c.Expect {
		u.Expect = append(u.Expect, awsapi.Expect{Name: e.Name, Op: operators[e.Op], Value: e.Value})
	}
	item, err := t.client.UpdateItem(ctx, u)
	if failed, ok := errors.AsType[*awsapi.ConditionFailed](err); ok {
		return nil, &slot.Changed{Stored: slot.Attributes(failed.Item)}
	}
	return slot.Attributes(item), err
}
