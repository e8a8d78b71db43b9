package awstest

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
)

// expressions evaluates DynamoDB's expressions, in the subset that the router uses: SET and
// REMOVE of whole attributes, and conditions joined by AND. Each name must be a placeholder,
// as DynamoDB refuses reserved words:
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html.
type expressions struct {
	names  map[string]string
	values Item
	used   map[string]bool // placeholders
}

func newExpressions(names map[string]string, in map[string]attribute) (*expressions, *awsError) {
	// An omitted map is nil, an empty one is not.
	if names != nil && len(names) == 0 {
		return nil, invalid("ExpressionAttributeNames must not be empty")
	}
	if in != nil && len(in) == 0 {
		return nil, invalid("ExpressionAttributeValues must not be empty")
	}
	vs, no := values(in)
	return &expressions{names, vs, map[string]bool{}}, no
}

func (e *expressions) name(placeholder string) (string, *awsError) {
	n, ok := e.names[placeholder]
	if !ok {
		return "", invalid("Invalid expression: An expression attribute name used in the document path is not defined, or may be a reserved word; attribute name: %s", placeholder)
	}
	e.used[placeholder] = true
	return n, nil
}

func (e *expressions) value(placeholder string) (any, *awsError) {
	v, ok := e.values[placeholder]
	if !ok {
		return nil, invalid("Invalid expression: An expression attribute value used in expression is not defined; attribute value: %s", placeholder)
	}
	e.used[placeholder] = true
	return v, nil
}

// unused returns DynamoDB's refusal of placeholders that no expression uses.
func (e *expressions) unused() *awsError {
	for _, p := range slices.Sorted(maps.Keys(e.names)) {
		if !e.used[p] {
			return invalid("Value provided in ExpressionAttributeNames unused in expressions: keys: {%s}", p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(e.values)) {
		if !e.used[p] {
			return invalid("Value provided in ExpressionAttributeValues unused in expressions: keys: {%s}", p)
		}
	}
	return nil
}

// condition is a comparison of one attribute.
type condition struct {
	name  string
	op    string // "absent", "exists", "=", "<"
	value any
}

func (e *expressions) conditions(expression string) (list []condition, no *awsError) {
	if expression == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(expression, " AND ") {
		c := condition{}
		var placeholder string
		word := strings.Fields(part)
		switch {
		case len(word) == 1 && strings.HasPrefix(part, "attribute_not_exists("):
			c.op, placeholder = "absent", strings.TrimSuffix(strings.TrimPrefix(part, "attribute_not_exists("), ")")
		case len(word) == 1 && strings.HasPrefix(part, "attribute_exists("):
			c.op, placeholder = "exists", strings.TrimSuffix(strings.TrimPrefix(part, "attribute_exists("), ")")
		case len(word) == 3 && (word[1] == "=" || word[1] == "<"):
			c.op, placeholder = word[1], word[0]
			if c.value, no = e.value(word[2]); no != nil {
				return nil, no
			}
		default:
			return nil, invalid("this server does not support the condition %q", part)
		}
		if c.name, no = e.name(placeholder); no != nil {
			return nil, no
		}
		list = append(list, c)
	}
	return list, nil
}

// holds reports whether the condition is true for an item; nil means that there is none. A
// comparison of different types is false.
func (c condition) holds(item Item) bool {
	stored, ok := item[c.name]
	switch c.op {
	case "absent":
		return !ok
	case "exists":
		return ok
	}
	order, same := compare(stored, c.value)
	return ok && same && (c.op == "=" && order == 0 || c.op == "<" && order < 0)
}

func compare(a, b any) (order int, sameType bool) {
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return strings.Compare(a, b), ok
	case int64:
		b, ok := b.(int64)
		return cmp.Compare(a, b), ok
	case []byte:
		b, ok := b.([]byte)
		return bytes.Compare(a, b), ok
	}
	return 0, false
}

// update returns what an update expression sets and removes. No attribute may occur twice,
// and none of the key.
func (e *expressions) update(expression string, key []string) (set Item, remove []string, no *awsError) {
	set = Item{}
	if expression == "" {
		return set, nil, nil
	}
	sets, removes, _ := strings.Cut(" "+expression, " REMOVE ")
	var seen []string
	path := func(placeholder string) (string, *awsError) {
		n, no := e.name(placeholder)
		switch {
		case no != nil:
			return "", no
		case slices.Contains(key, n):
			return "", invalid("One or more parameter values were invalid: Cannot update attribute %s. This attribute is part of the key", n)
		case slices.Contains(seen, n):
			return "", invalid("Invalid UpdateExpression: Two document paths overlap with each other; must remove or rewrite one of these paths; path one: [%s], path two: [%s]", n, n)
		}
		seen = append(seen, n)
		return n, nil
	}
	if sets != "" {
		assignments, ok := strings.CutPrefix(sets, " SET ")
		if !ok {
			return nil, nil, invalid("this server does not support the update %q", expression)
		}
		for a := range strings.SplitSeq(assignments, ", ") {
			left, right, _ := strings.Cut(a, " = ")
			n, no := path(left)
			if no != nil {
				return nil, nil, no
			}
			if set[n], no = e.value(right); no != nil {
				return nil, nil, no
			}
		}
	}
	if removes != "" {
		for placeholder := range strings.SplitSeq(removes, ", ") {
			n, no := path(placeholder)
			if no != nil {
				return nil, nil, no
			}
			remove = append(remove, n)
		}
	}
	return set, remove, nil
}
