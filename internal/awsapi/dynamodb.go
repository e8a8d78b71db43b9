package awsapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"subnetrouter/internal/secret"
)

// Item maps the names of a DynamoDB item's attributes to their values: string, int64 or
// []byte. Attributes of other types, such as fractions, are left out of the items that the
// [Client] returns.
type Item map[string]any

// ExpectOp is the comparison of an [Expect].
type ExpectOp int

// The comparisons.
const (
	Absent ExpectOp = iota // the item has no such attribute, or does not exist
	Equal                  // the stored value equals Value
	Less                   // the stored value is of Value's type, and less than it
)

// Expect is one condition on the stored item.
type Expect struct {
	Name  string
	Op    ExpectOp
	Value any // unused with [Absent]
}

// ItemUpdate is a conditional write of one item. If there is no item with the key, DynamoDB
// creates one.
type ItemUpdate struct {
	Table  string // name or ARN; an ARN's region wins over the client's
	Key    Item
	Set    Item
	Remove []string
	Expect []Expect // all must hold
}

// ConditionFailed is the error of [Client.UpdateItem] if a condition does not hold, in
// which case nothing was written. No other failure has this type.
type ConditionFailed struct {
	Table string
	Item  Item // the stored item; nil if there is none
}

func (e *ConditionFailed) Error() string {
	return fmt.Sprintf("updating an item of table %q: a condition does not hold for the stored item", e.Table)
}

// Query and UpdateItem are the actions that [Client.QueryItems] and [Client.UpdateItem] need.
var (
	Query      = Action{Name: "dynamodb:Query"}
	UpdateItem = Action{Name: "dynamodb:UpdateItem"}
)

// MaxItems bounds the items that [Client.QueryItems] returns, and maxItemPages the pages,
// of at most 1 MB each, that it reads.
const (
	MaxItems     = 1000
	maxItemPages = 32
)

// QueryItems returns all items whose partition key, the attribute keyName, is key, as of
// now: the reads are strongly consistent. More than [MaxItems] are an error, because a part
// of them could be mistaken for all.
func (c *Client) QueryItems(ctx context.Context, table, keyName, key string) ([]Item, error) {
	req, options := c.table(Query, table)
	in := &dynamodb.QueryInput{
		TableName:                 &table,
		ConsistentRead:            aws.Bool(true),
		KeyConditionExpression:    aws.String("#k = :k"),
		ExpressionAttributeNames:  map[string]string{"#k": keyName},
		ExpressionAttributeValues: map[string]types.AttributeValue{":k": &types.AttributeValueMemberS{Value: key}},
		Limit:                     aws.Int32(MaxItems + 1),
	}
	var list []Item
	for range maxItemPages {
		var out *dynamodb.QueryOutput
		err := c.call(ctx, req, func(ctx context.Context) (err error) {
			out, err = c.dynamodb.Query(ctx, in, options)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, item := range out.Items {
			list = append(list, itemOf(item))
		}
		if len(list) > MaxItems {
			break
		}
		if len(out.LastEvaluatedKey) == 0 {
			return list, nil
		}
		in.ExclusiveStartKey = out.LastEvaluatedKey
	}
	return nil, req.fail("", "", fmt.Sprintf("more than %d items or %d MB have the partition key %q", MaxItems, maxItemPages, key),
		"delete the items that are no longer used, or use another table")
}

// UpdateItem writes an item if all conditions hold, and returns the new item. It returns a
// [*ConditionFailed] if one does not hold, and a [*problem.Problem] for every other failure.
//
// After a [*problem.Problem] the item may have been written nevertheless, as the answer may
// have been lost. The SDK's own retries have the same effect: a retry of an applied write
// may return a [*ConditionFailed] with the item that this call wrote. The caller must
// recognize its own write in both cases. Its ctx bounds the time of the call with all
// retries.
func (c *Client) UpdateItem(ctx context.Context, u ItemUpdate) (Item, error) {
	req, options := c.table(UpdateItem, u.Table)
	in, err := u.input()
	if err != nil {
		return nil, req.fail("", "", err.Error(), "")
	}
	var out *dynamodb.UpdateItemOutput
	var refused *types.ConditionalCheckFailedException
	err = c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.dynamodb.UpdateItem(ctx, in, options)
		if errors.As(err, &refused) { // an answer, not a failed call
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case refused != nil:
		return nil, &ConditionFailed{Table: u.Table, Item: itemOf(refused.Item)}
	}
	return itemOf(out.Attributes), nil
}

// input returns the request. Names and values are placeholders in the expressions, because
// DynamoDB reserves some 570 words.
func (u ItemUpdate) input() (*dynamodb.UpdateItemInput, error) {
	in := &dynamodb.UpdateItemInput{
		TableName:                           &u.Table,
		ReturnValues:                        types.ReturnValueAllNew,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
	var err error
	if in.Key, err = attributesOf(u.Key); err != nil {
		return nil, err
	}
	names, values := map[string]string{}, map[string]types.AttributeValue{}
	name := func(n string) string {
		placeholder := "#n" + strconv.Itoa(len(names))
		names[placeholder] = n
		return placeholder
	}
	value := func(n string, v any) (string, error) {
		placeholder := ":v" + strconv.Itoa(len(values))
		var err error
		values[placeholder], err = attributeOf(n, v)
		return placeholder, err
	}
	var set, remove, conditions []string
	for _, n := range slices.Sorted(maps.Keys(u.Set)) {
		v, err := value(n, u.Set[n])
		if err != nil {
			return nil, err
		}
		set = append(set, name(n)+" = "+v)
	}
	for _, n := range u.Remove {
		remove = append(remove, name(n))
	}
	for _, e := range u.Expect {
		condition, err := e.condition(name, value)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, condition)
	}
	var update []string
	if len(set) > 0 {
		update = append(update, "SET "+strings.Join(set, ", "))
	}
	if len(remove) > 0 {
		update = append(update, "REMOVE "+strings.Join(remove, ", "))
	}
	if len(update) > 0 {
		in.UpdateExpression = aws.String(strings.Join(update, " "))
	}
	if len(conditions) > 0 {
		in.ConditionExpression = aws.String(strings.Join(conditions, " AND "))
	}
	if len(names) > 0 { // DynamoDB refuses an empty map
		in.ExpressionAttributeNames = names
	}
	if len(values) > 0 {
		in.ExpressionAttributeValues = values
	}
	return in, nil
}

func (e Expect) condition(name func(string) string, value func(string, any) (string, error)) (string, error) {
	if e.Op == Absent {
		return "attribute_not_exists(" + name(e.Name) + ")", nil
	}
	v, err := value(e.Name, e.Value)
	if err != nil {
		return "", err
	}
	if e.Op == Less {
		return name(e.Name) + " < " + v, nil
	}
	return name(e.Name) + " = " + v, nil
}

// table returns a request for a table, and the option that selects its region.
func (c *Client) table(a Action, table string) (request, func(*dynamodb.Options)) {
	region := c.regionOf(table)
	resource := table
	if _, byARN := ParseARN(table); !byARN {
		resource = "the table " + table
	}
	return request{
		op:         a.Name,
		resource:   fmt.Sprintf("table %q", table),
		region:     region,
		callerCode: true,
		allow:      fmt.Sprintf("allow %s on %s in the task role's policy", a.Name, resource),
		find:       fmt.Sprintf("create the table in %s, or correct its name", region),
		missing:    map[string]bool{"ResourceNotFoundException": true, "TableNotFoundException": true},
		kms:        "allow kms:Decrypt on the table's KMS key in the task role's policy and in the key's own policy",
	}, func(o *dynamodb.Options) { o.Region = region }
}

// regionOf returns the region in an ARN, and the client's for anything else.
func (c *Client) regionOf(id string) string {
	if arn, _ := ParseARN(id); arn.Region != "" {
		return arn.Region
	}
	return c.Region()
}

func attributesOf(item Item) (map[string]types.AttributeValue, error) {
	out := make(map[string]types.AttributeValue, len(item))
	for n, v := range item {
		var err error
		if out[n], err = attributeOf(n, v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// attributeOf returns a value in DynamoDB's form. Its error has the value's type only, as
// the value may be a secret.
func attributeOf(name string, v any) (types.AttributeValue, error) {
	switch v := v.(type) {
	case string:
		return &types.AttributeValueMemberS{Value: v}, nil
	case int64:
		return &types.AttributeValueMemberN{Value: strconv.FormatInt(v, 10)}, nil
	case []byte:
		return &types.AttributeValueMemberB{Value: append([]byte{}, v...)}, nil // not nil, which the SDK omits
	}
	return nil, fmt.Errorf("the attribute %s has the type %T, not string, int64 or []byte", name, v)
}

// itemOf returns nil for an item without attributes, which is how DynamoDB reports that
// there is none.
func itemOf(attributes map[string]types.AttributeValue) Item {
	if len(attributes) == 0 {
		return nil
	}
	item := make(Item, len(attributes))
	for n, v := range attributes {
		switch v := v.(type) {
		case *types.AttributeValueMemberS:
			item[n] = v.Value
		case *types.AttributeValueMemberB:
			item[n] = v.Value
		case *types.AttributeValueMemberN:
			if i, err := strconv.ParseInt(v.Value, 10, 64); err == nil {
				item[n] = i
			}
		}
	}
	return item
}

// Format implements [fmt.Formatter]: items may hold secrets, so only the names of their
// attributes are printed.
func (i Item) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "item with %s", secret.Clean(strings.Join(slices.Sorted(maps.Keys(i)), ", "), maxMessage))
}
