package awstest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Table is a DynamoDB table.
type Table struct {
	Partition string // the name of the partition key, a string
	Sort      string // the name of the sort key; "" if there is none
	SortType  string // "S" (default) or "N"
}

// Item maps the names of an item's attributes to their values: string, int64 or []byte.
type Item map[string]any

// Limits of DynamoDB: the size of an item and of a page of a query, in bytes. Source:
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html and
// https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_Query.html.
const (
	maxItemSize  = 400 << 10
	maxQueryPage = 1 << 20
)

// Items returns the items of a table, by their keys in order.
func (s *Server) Items(table string) (list []Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(s.items[table])) {
		list = append(list, maps.Clone(s.items[table][key]))
	}
	return list
}

// PutItem stores an item in a table, in place of the one with the same key.
func (s *Server) PutItem(table string, item Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storeLocked(table, s.world.Tables[table].key(item), maps.Clone(item))
}

// DeleteItem deletes the item with the same key, as DynamoDB does after the time of a TTL
// attribute.
func (s *Server) DeleteItem(table string, key Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.items[table], s.world.Tables[table].key(key))
}

func (s *Server) storeLocked(table, key string, item Item) {
	if s.items == nil {
		s.items = map[string]map[string]Item{}
	}
	if s.items[table] == nil {
		s.items[table] = map[string]Item{}
	}
	s.items[table][key] = item
}

// key returns the text by which the items of a table are found and sorted.
func (t Table) key(item Item) string {
	if n, ok := item[t.Sort].(int64); ok {
		return fmt.Sprintf("%v\x00%020d", item[t.Partition], n)
	}
	return fmt.Sprintf("%v\x00%v", item[t.Partition], item[t.Sort])
}

func (t Table) keyNames() []string {
	if t.Sort == "" {
		return []string{t.Partition}
	}
	return []string{t.Partition, t.Sort}
}

// TableARN returns the ARN of the table with this name in a [Server].
func (w World) TableARN(name string) string {
	return fmt.Sprintf("arn:aws:dynamodb:%s:%s:table/%s", w.region(), w.account(), name)
}

// table finds a table by its name or ARN.
func (w World) table(id string) (name string, t Table, no *awsError) {
	name = strings.TrimPrefix(id, w.TableARN(""))
	t, ok := w.Tables[name]
	if !ok {
		return "", Table{}, &awsError{Code: "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", Message: "Requested resource not found"}
	}
	return name, t, nil
}

// invalid returns DynamoDB's answer to an invalid request.
func invalid(format string, args ...any) *awsError {
	return &awsError{Code: "com.amazon.coral.validate#ValidationException", Message: fmt.Sprintf(format, args...)}
}

// attribute is an attribute in DynamoDB's form.
type attribute struct {
	S *string `json:",omitempty"`
	N *string `json:",omitempty"`
	B *[]byte `json:",omitempty"`
}

func (a attribute) value() (any, *awsError) {
	switch {
	case a.S != nil && a.N == nil && a.B == nil:
		return *a.S, nil
	case a.N != nil && a.S == nil && a.B == nil:
		n, err := strconv.ParseInt(*a.N, 10, 64)
		if err != nil {
			return nil, invalid("The parameter cannot be converted to a numeric value: %s", *a.N)
		}
		return n, nil
	case a.B != nil && a.S == nil && a.N == nil:
		return *a.B, nil
	}
	return nil, invalid("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes")
}

func values(in map[string]attribute) (Item, *awsError) {
	out := Item{}
	for n, a := range in {
		v, no := a.value()
		if no != nil {
			return nil, no
		}
		out[n] = v
	}
	return out, nil
}

func attributes(in Item) map[string]attribute {
	out := map[string]attribute{}
	for n, v := range in {
		switch v := v.(type) {
		case string:
			out[n] = attribute{S: &v}
		case int64:
			text := strconv.FormatInt(v, 10)
			out[n] = attribute{N: &text}
		case []byte:
			out[n] = attribute{B: &v}
		default:
			panic(fmt.Sprintf("the attribute %s has the type %T", n, v))
		}
	}
	return out
}

// size returns the size of an item as DynamoDB counts it, or more for numbers. Source:
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html.
func (i Item) size() (n int) {
	for name, v := range i {
		n += len(name)
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		default:
			n += 21
		}
	}
	return n
}

type query struct {
	TableName                 string
	ConsistentRead            bool
	KeyConditionExpression    string
	ExpressionAttributeNames  map[string]string
	ExpressionAttributeValues map[string]attribute
	ExclusiveStartKey         map[string]attribute
	Limit                     int
}

type queryResult struct {
	Items            []map[string]attribute
	Count            int
	LastEvaluatedKey map[string]attribute `json:",omitempty"`
}

func (s *Server) query(region string, in query) (out queryResult, no *awsError) {
	w := s.snapshot().in(region)
	name, t, no := w.table(in.TableName)
	if no != nil {
		return out, no
	}
	if !in.ConsistentRead {
		return out, invalid("this server answers only strongly consistent reads")
	}
	e, no := newExpressions(in.ExpressionAttributeNames, in.ExpressionAttributeValues)
	if no != nil {
		return out, no
	}
	conditions, no := e.conditions(in.KeyConditionExpression)
	if no != nil {
		return out, no
	}
	if no := e.unused(); no != nil {
		return out, no
	}
	if len(conditions) != 1 || conditions[0].name != t.Partition || conditions[0].op != "=" {
		return out, invalid("Query condition missed key schema element: %s", t.Partition)
	}
	start, no := values(in.ExclusiveStartKey)
	if no != nil {
		return out, no
	}
	limit := in.Limit
	if w.PageSize > 0 && (limit == 0 || w.PageSize < limit) {
		limit = w.PageSize
	}
	out.Items = []map[string]attribute{}
	size := 0
	var last Item
	for _, item := range s.Items(name) {
		if item[t.Partition] != conditions[0].value || len(start) > 0 && t.key(item) <= t.key(start) {
			continue
		}
		if limit > 0 && len(out.Items) == limit || size+item.size() > maxQueryPage {
			out.LastEvaluatedKey = attributes(t.keyOf(last))
			break
		}
		last, size = item, size+item.size()
		out.Items = append(out.Items, attributes(item))
	}
	out.Count = len(out.Items)
	return out, nil
}

// keyOf returns the key of an item.
func (t Table) keyOf(item Item) Item {
	key := Item{}
	for _, n := range t.keyNames() {
		key[n] = item[n]
	}
	return key
}

type updateItem struct {
	TableName                           string
	Key                                 map[string]attribute
	UpdateExpression                    string
	ConditionExpression                 string
	ExpressionAttributeNames            map[string]string
	ExpressionAttributeValues           map[string]attribute
	ReturnValues                        string
	ReturnValuesOnConditionCheckFailure string
}

type updateResult struct {
	Attributes map[string]attribute `json:",omitempty"`
}

func (s *Server) updateItem(region string, in updateItem) (out updateResult, no *awsError) {
	name, t, no := s.snapshot().in(region).table(in.TableName)
	if no != nil {
		return out, no
	}
	key, no := t.checkKey(in.Key)
	if no != nil {
		return out, no
	}
	e, no := newExpressions(in.ExpressionAttributeNames, in.ExpressionAttributeValues)
	if no != nil {
		return out, no
	}
	set, remove, no := e.update(in.UpdateExpression, t.keyNames())
	if no != nil {
		return out, no
	}
	conditions, no := e.conditions(in.ConditionExpression)
	if no != nil {
		return out, no
	}
	if no := e.unused(); no != nil {
		return out, no
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.items[name][t.key(key)]
	for _, c := range conditions {
		if !c.holds(stored) {
			no := &awsError{Code: "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", Message: "The conditional request failed"}
			if in.ReturnValuesOnConditionCheckFailure == "ALL_OLD" && stored != nil {
				no.Item = attributes(stored)
			}
			return out, no
		}
	}
	item := maps.Clone(key)
	maps.Copy(item, stored)
	maps.Copy(item, set)
	for _, n := range remove {
		delete(item, n)
	}
	if item.size() > maxItemSize {
		return out, invalid("Item size to update has exceeded the maximum allowed size")
	}
	s.storeLocked(name, t.key(key), item)
	if in.ReturnValues == "ALL_NEW" {
		out.Attributes = attributes(item)
	}
	return out, nil
}

// checkKey returns the key of a request, which must have all key attributes and no others.
func (t Table) checkKey(in map[string]attribute) (Item, *awsError) {
	key, no := values(in)
	if no != nil {
		return nil, no
	}
	names := t.keyNames()
	for _, n := range names {
		if _, ok := key[n].(int64); ok && n == t.Sort && t.SortType == "N" && len(key) == len(names) {
			continue
		}
		v, ok := key[n].(string)
		if !ok || n == t.Sort && t.SortType == "N" || len(key) != len(names) {
			return nil, invalid("The provided key element does not match the schema")
		}
		if v == "" {
			return nil, invalid("One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty string value. Key: %s", n)
		}
	}
	return key, nil
}
