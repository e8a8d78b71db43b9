package awstest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/secret"
)

// TestStoresAnswerLikeMoto compares DynamoDB, KMS and Systems Manager of the Go server with
// moto, as TestServerAnswersLikeMoto does. It leaves out where AWS is stricter than moto.
func TestStoresAnswerLikeMoto(t *testing.T) {
	moto := awstest.RunMoto(t)
	world, err := moto.SeedStores(t.Context(), awstest.World{
		Tables: map[string]awstest.Table{"router": {Partition: "pk", Sort: "sk"}},
		Keys:   []awstest.Key{{ID: "first", Alias: "alias/router"}, {ID: "second"}, {ID: "third", Disabled: true}},
		Parameters: map[string]awstest.Parameter{
			"/router/key": {Values: []string{"first", "second"}, Labels: map[string]int{"old": 1}},
			"/text":       {Values: []string{"text"}, Type: "String"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := awstest.NewServer("", world)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	var logs [2]map[string]string
	for i, env := range []map[string]string{server.Env(), moto.Env(world)} {
		awstest.Setenv(t, env)
		c, err := awsapi.New(t.Context(), awsapi.Options{})
		if err != nil {
			t.Fatal(err)
		}
		logs[i] = useStores(t, world, c)
	}
	// The answers of AWS, where moto's are others.
	aws := map[string]string{
		"update 5":           "map[fence:1 owner:a pk:edge sk:slot-1 status:x ttl:-5], ", // ALL_NEW
		"generate disabled":  "0, DisabledException",
		"other key first":    "<nil>, IncorrectKeyException",
		"get /text:old":      "  0, ParameterVersionNotFound",
		"get /text:no":       "  0, ParameterVersionNotFound",
		"get /router/key:no": "  0, ParameterVersionNotFound",
	}
	for call, got := range logs[0] {
		want, differs := aws[call]
		if !differs {
			want = logs[1][call]
		}
		if got != want || differs == (got == logs[1][call]) {
			t.Errorf("%s: the server answers %s, moto %s", call, got, logs[1][call])
		}
	}
	if len(logs[0]) < 50 || len(logs[0]) < len(logs[1]) {
		t.Errorf("%d answers of the server, %d of moto", len(logs[0]), len(logs[1]))
	}
}

// useStores makes a fixed sequence of calls and returns the answers by call.
func useStores(t *testing.T, w awstest.World, c *awsapi.Client) map[string]string {
	ctx, log := t.Context(), map[string]string{}
	note := func(call string, result any, err error) {
		code, _ := errors.AsType[awsapi.Code](err)
		if refused, ok := errors.AsType[*awsapi.ConditionFailed](err); ok {
			code, result = "refused", map[string]any(refused.Item)
		}
		if item, ok := result.(awsapi.Item); ok {
			result = map[string]any(item)
		}
		if _, twice := log[call]; twice {
			t.Errorf("%s: called twice", call)
		}
		log[call] = fmt.Sprintf("%v, %s", result, code)
	}
	type expect = []awsapi.Expect
	absent, owner := awsapi.Expect{Name: "pk", Op: awsapi.Absent}, awsapi.Expect{Name: "owner", Op: awsapi.Equal, Value: "a"}
	for i, u := range []awsapi.ItemUpdate{
		{Set: awsapi.Item{"owner": "a", "fence": int64(1), "key": []byte{0, 1}}, Expect: expect{absent}},
		{Set: awsapi.Item{"owner": "b"}, Expect: expect{absent}},
		{Set: awsapi.Item{"status": "x", "ttl": int64(-5)}, Remove: []string{"key", "never"}, Expect: expect{owner, {Name: "fence", Op: awsapi.Less, Value: int64(2)}}},
		{Set: awsapi.Item{"owner": "c"}, Expect: expect{{Name: "fence", Op: awsapi.Less, Value: int64(1)}}},
		{Set: awsapi.Item{"owner": "c"}, Expect: expect{{Name: "fence", Op: awsapi.Equal, Value: int64(3)}, owner}},
		{Expect: expect{owner}},
		{Set: awsapi.Item{"pk": "other"}},
		{Set: awsapi.Item{"n": int64(1)}, Remove: []string{"n"}},
		{Set: awsapi.Item{"state": strings.Repeat("x", 401<<10)}},
		{Key: awsapi.Item{"pk": "edge"}, Set: awsapi.Item{"n": int64(1)}},
		{Key: awsapi.Item{"pk": "edge", "sk": "none"}, Set: awsapi.Item{"n": int64(1)}, Expect: expect{owner}},
		{Table: "none", Set: awsapi.Item{"n": int64(1)}},
	} {
		if u.Key == nil {
			u.Key = awsapi.Item{"pk": "edge", "sk": "slot-1"}
		}
		if u.Table == "" {
			u.Table = "router"
		}
		item, err := c.UpdateItem(ctx, u)
		note(fmt.Sprint("update ", i), item, err)
	}
	for i := range 5 {
		item, err := c.UpdateItem(ctx, awsapi.ItemUpdate{Table: "router", Key: awsapi.Item{"pk": "edge", "sk": fmt.Sprint("slot-", 9-i)}, Set: awsapi.Item{"n": int64(i)}})
		note(fmt.Sprint("slot ", i), item, err)
	}
	for _, table := range []string{"router", w.TableARN("router"), "none"} {
		for _, pk := range []string{"edge", "absent"} {
			items, err := c.QueryItems(ctx, table, "pk", pk)
			var plain []map[string]any
			for _, item := range items {
				plain = append(plain, item)
			}
			note("query "+table+" "+pk, plain, err)
		}
	}

	purpose := map[string]string{"table": "router", "slot": "1"}
	first := w.Keys[0].ID
	key, err := c.GenerateDataKey(ctx, first, purpose)
	note("generate first", len(key.Plain.Reveal()), err)
	_, err = c.DecryptDataKey(ctx, first, key.Wrapped, map[string]string{"table": "router"})
	note("other context first", nil, err)
	_, err = c.DecryptDataKey(ctx, w.Keys[1].ID, key.Wrapped, purpose)
	note("other key first", nil, err)
	for name, id := range map[string]string{
		"ARN": w.KeyARN(first), "alias": "alias/router", "no alias": "alias/none", "disabled": w.Keys[2].ID, "missing": "0f4c1f1e-58ad-4a1b-9d2b-8f5d2f0a7c11",
	} {
		key, err := c.GenerateDataKey(ctx, id, purpose)
		note("generate "+name, len(key.Plain.Reveal()), err)
		if err == nil && name != "disabled" {
			plain, err := c.DecryptDataKey(ctx, id, key.Wrapped, purpose)
			note("decrypt "+name, string(plain.Reveal()) == string(key.Plain.Reveal()), err)
		}
	}

	for _, name := range []string{"/router/key", "/text", "/router/new"} {
		for _, selector := range []string{"", ":1", ":9", ":old", ":no"} {
			v, err := c.Parameter(ctx, w.ParameterARN(name)+selector)
			note("get "+name+selector, fmt.Sprintf("%s %s %d", v.Value.Reveal(), v.Type, v.Version), err)
		}
	}
	for _, name := range []string{"/router/key", "/router/new"} {
		for i, value := range []secret.String{"v", secret.String(strings.Repeat("x", 5000))} {
			version, err := c.PutParameter(ctx, w.ParameterARN(name), value, "")
			note(fmt.Sprint("put ", name, i), version, err)
			v, err := c.Parameter(ctx, w.ParameterARN(name))
			note(fmt.Sprint("get ", name, i), fmt.Sprintf("%.3s %s %d", v.Value.Reveal(), v.Type, v.Version), err)
		}
	}
	return log
}
