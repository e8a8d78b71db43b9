package awsapi_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/problem"
)

// serve starts a server with a world, and a client.
func serve(t *testing.T, w awstest.World, attempts string, o awsapi.Options) (*awstest.Server, *awsapi.Client) {
	t.Helper()
	server, err := awstest.NewServer("", w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	awstest.Setenv(t, server.Env(), map[string]string{"AWS_MAX_ATTEMPTS": attempts})
	return server, client(t, o)
}

func slots() awstest.World {
	return awstest.World{Tables: map[string]awstest.Table{"router": {Partition: "pk", Sort: "sk"}}}
}

func slot(name string) awsapi.Item { return awsapi.Item{"pk": "edge", "sk": name} }

func TestConditionalWrites(t *testing.T) {
	server, c := serve(t, slots(), "1", awsapi.Options{})
	type expect = []awsapi.Expect
	owner := awsapi.Expect{Name: "owner", Op: awsapi.Equal, Value: "a"}
	for _, step := range []struct {
		name    string
		u       awsapi.ItemUpdate
		refused bool
		want    awsapi.Item // the stored item afterwards, without its key
	}{
		{"created", awsapi.ItemUpdate{Set: awsapi.Item{"owner": "a", "fence": int64(1), "key": []byte{0, 0xff}}, Expect: expect{{Name: "pk", Op: awsapi.Absent}}},
			false, awsapi.Item{"owner": "a", "fence": int64(1), "key": []byte{0, 0xff}}},
		{"exists", awsapi.ItemUpdate{Set: awsapi.Item{"owner": "b"}, Expect: expect{{Name: "pk", Op: awsapi.Absent}}},
			true, awsapi.Item{"owner": "a", "fence": int64(1), "key": []byte{0, 0xff}}},
		{"reserved names", awsapi.ItemUpdate{Set: awsapi.Item{"status": "", "ttl": int64(-9007199254740993)}, Remove: []string{"key"}, Expect: expect{owner}},
			false, awsapi.Item{"owner": "a", "fence": int64(1), "status": "", "ttl": int64(-9007199254740993)}},
		{"fence moves on", awsapi.ItemUpdate{Set: awsapi.Item{"owner": "b", "fence": int64(2), "empty": []byte(nil)}, Remove: []string{"status", "ttl", "never"}, Expect: expect{owner, {Name: "fence", Op: awsapi.Less, Value: int64(2)}}},
			false, awsapi.Item{"owner": "b", "fence": int64(2), "empty": []byte{}}},
		{"equal is not less", awsapi.ItemUpdate{Set: awsapi.Item{"owner": "c"}, Expect: expect{{Name: "fence", Op: awsapi.Less, Value: int64(2)}}},
			true, awsapi.Item{"owner": "b", "fence": int64(2), "empty": []byte{}}},
		{"other type", awsapi.ItemUpdate{Set: awsapi.Item{"owner": "c"}, Expect: expect{{Name: "fence", Op: awsapi.Less, Value: "9"}}},
			true, awsapi.Item{"owner": "b", "fence": int64(2), "empty": []byte{}}},
		{"one of two", awsapi.ItemUpdate{Set: awsapi.Item{"owner": "c"}, Expect: expect{owner, {Name: "fence", Op: awsapi.Equal, Value: int64(2)}}},
			true, awsapi.Item{"owner": "b", "fence": int64(2), "empty": []byte{}}},
		{"binary", awsapi.ItemUpdate{Remove: []string{"empty"}, Expect: expect{{Name: "empty", Op: awsapi.Equal, Value: []byte{}}}},
			false, awsapi.Item{"owner": "b", "fence": int64(2)}},
		{"nothing to write", awsapi.ItemUpdate{}, false, awsapi.Item{"owner": "b", "fence": int64(2)}},
	} {
		step.u.Table, step.u.Key = "router", slot("slot-1")
		want := slot("slot-1")
		maps.Copy(want, step.want)
		got, err := c.UpdateItem(t.Context(), step.u)
		refusal, refused := errors.AsType[*awsapi.ConditionFailed](err)
		if refused {
			got = refusal.Item
		}
		if refused != step.refused || !refused && err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: got %#v, %v\nwant %#v", step.name, map[string]any(got), err, map[string]any(want))
		}
		stored := server.Items("router")
		if len(stored) != 1 || !reflect.DeepEqual(awsapi.Item(stored[0]), want) {
			t.Fatalf("%s: stored %v", step.name, stored)
		}
	}
	_, err := c.UpdateItem(t.Context(), awsapi.ItemUpdate{Table: "router", Key: slot("slot-2"), Expect: expect{owner}})
	if refusal, ok := errors.AsType[*awsapi.ConditionFailed](err); !ok || refusal.Item != nil {
		t.Errorf("without an item: %v", err)
	}
	if text := fmt.Sprintf("%v %+v", err, awsapi.Item{"pk": "x", "secret": "value"}); strings.Contains(text, "value") {
		t.Errorf("the value of an item was printed: %s", text)
	}
}

// TestRefusedConditionIsNoFailure: a caller can tell a refused condition from every failure,
// and metrics do not count it as one.
func TestRefusedConditionIsNoFailure(t *testing.T) {
	called := map[string]error{}
	server, c := serve(t, slots(), "1", awsapi.Options{TryTimeout: 300 * time.Millisecond, Called: func(action string, err error) { called[action] = err }})
	write := awsapi.ItemUpdate{Table: "router", Key: slot("slot-1"), Set: awsapi.Item{"owner": "a"}, Expect: []awsapi.Expect{{Name: "pk", Op: awsapi.Absent}}}
	for _, test := range []struct {
		name    string
		failure awstest.Failure
		applied bool
		want    string // contained in the error
	}{
		{"throttled", awstest.TableThrottled(), false, "ProvisionedThroughputExceededException"},
		{"down", awstest.Down(), false, "AWS is failing in eu-west-1"},
		{"denied", awstest.Denied("dynamodb:UpdateItem", slots().TableARN("router")), false, "allow dynamodb:UpdateItem on the table router in the task role's policy"},
		{"slow", awstest.Failure{Delay: time.Minute, Deaf: true}, false, "no answer in time"},
		{"answer lost", awstest.Failure{Lost: true}, true, "no answer from"},
		{"answer cut", awstest.Failure{Cut: true}, true, "the answer is truncated"},
		{"answer late", awstest.Failure{Late: time.Minute}, true, "no answer in time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server.DeleteItem("router", awstest.Item(write.Key))
			server.Fail("dynamodb:UpdateItem", test.failure)
			defer server.Fail("dynamodb:UpdateItem", awstest.Failure{})
			_, err := c.UpdateItem(t.Context(), write)
			if _, ok := errors.AsType[*problem.Problem](err); !ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want a problem with %q", err, test.want)
			}
			if _, ok := errors.AsType[*awsapi.ConditionFailed](err); ok {
				t.Error("a failure is reported as a refused condition")
			}
			if problem.CodeOf(err, "the caller's") != "the caller's" {
				t.Errorf("code %q", problem.CodeOf(err, ""))
			}
			if got := len(server.Items("router")) == 1; got != test.applied {
				t.Errorf("the write was applied: %v, want %v", got, test.applied)
			}
		})
	}
	if called["dynamodb:UpdateItem"] == nil {
		t.Error("a failure was not counted")
	}
	server.PutItem("router", awstest.Item{"pk": "edge", "sk": "slot-1", "owner": "b"})
	if _, err := c.UpdateItem(t.Context(), write); err == nil || called["dynamodb:UpdateItem"] != nil {
		t.Errorf("a refused condition was counted as a failure: %v, %v", err, called)
	}
}

// TestRetryAfterLostAnswer: the SDK's retry of an applied write is refused, with the item
// that shows the caller that the write is its own.
func TestRetryAfterLostAnswer(t *testing.T) {
	server, c := serve(t, slots(), "2", awsapi.Options{})
	server.Fail("dynamodb:UpdateItem", awstest.Failure{Lost: true, Times: 1})
	_, err := c.UpdateItem(t.Context(), awsapi.ItemUpdate{
		Table: "router", Key: slot("slot-1"), Set: awsapi.Item{"owner": "a"}, Expect: []awsapi.Expect{{Name: "pk", Op: awsapi.Absent}},
	})
	refusal, ok := errors.AsType[*awsapi.ConditionFailed](err)
	if !ok || refusal.Item["owner"] != "a" {
		t.Errorf("got %v", err)
	}
}

// TestContextBoundsRetries: a caller's deadline ends a call with all of its retries.
func TestContextBoundsRetries(t *testing.T) {
	server, c := serve(t, slots(), "10", awsapi.Options{})
	server.Fail("dynamodb:UpdateItem", awstest.TableThrottled())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := c.UpdateItem(ctx, awsapi.ItemUpdate{Table: "router", Key: slot("slot-1")})
	if d := time.Since(begin); err == nil || d > 3*time.Second {
		t.Errorf("after %v: %v", d, err)
	}
}

// TestOneWriterWins: of writers with the same condition, exactly one is accepted.
func TestOneWriterWins(t *testing.T) {
	_, c := serve(t, slots(), "1", awsapi.Options{})
	var mu sync.Mutex
	var won []string
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			owner := fmt.Sprint("router-", i)
			_, err := c.UpdateItem(t.Context(), awsapi.ItemUpdate{Table: "router", Key: slot("slot-1"),
				Set: awsapi.Item{"owner": owner}, Expect: []awsapi.Expect{{Name: "owner", Op: awsapi.Absent}}})
			if err == nil {
				mu.Lock()
				won = append(won, owner)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Errorf("%v won", won)
	}
}

func TestQueryItems(t *testing.T) {
	world := slots()
	world.PageSize = 3
	server, c := serve(t, world, "1", awsapi.Options{})
	for i := range 8 {
		server.PutItem("router", awstest.Item{"pk": "edge", "sk": fmt.Sprint("slot-", i), "n": int64(i)})
	}
	server.PutItem("router", awstest.Item{"pk": "another", "sk": "slot-0"})
	for _, table := range []string{"router", world.TableARN("router")} {
		items, err := c.QueryItems(t.Context(), table, "pk", "edge")
		if err != nil || len(items) != 8 || items[7]["n"] != int64(7) {
			t.Errorf("%s: %d items, %v", table, len(items), err)
		}
	}
	if items, err := c.QueryItems(t.Context(), "router", "pk", "none"); err != nil || len(items) != 0 {
		t.Errorf("got %d items, %v", len(items), err)
	}
	server.Update(func(w *awstest.World) { w.PageSize = 0 })
	for i := range awsapi.MaxItems + 1 {
		server.PutItem("router", awstest.Item{"pk": "many", "sk": fmt.Sprintf("%04d", i)})
	}
	_, err := c.QueryItems(t.Context(), "router", "pk", "many")
	if err == nil || !strings.Contains(err.Error(), `more than 1000 items`) {
		t.Errorf("too many items: %v", err)
	}
	server.DeleteItem("router", awstest.Item{"pk": "many", "sk": "0500"})
	if items, err := c.QueryItems(t.Context(), "router", "pk", "many"); err != nil || len(items) != awsapi.MaxItems {
		t.Errorf("got %d items, %v", len(items), err)
	}
	// An endless answer ends.
	server.Update(func(w *awstest.World) { w.PageSize = 1 })
	before := len(server.Calls())
	if _, err := c.QueryItems(t.Context(), "router", "pk", "many"); err == nil || len(server.Calls())-before > 40 {
		t.Errorf("%d calls: %v", len(server.Calls())-before, err)
	}
}

func TestLargeItem(t *testing.T) {
	_, c := serve(t, slots(), "1", awsapi.Options{})
	_, err := c.UpdateItem(t.Context(), awsapi.ItemUpdate{Table: "router", Key: slot("slot-1"), Set: awsapi.Item{"state": make([]byte, 400<<10)}})
	if err == nil || !strings.Contains(err.Error(), "maximum allowed size") {
		t.Errorf("got %v", err)
	}
	_, err = c.UpdateItem(t.Context(), awsapi.ItemUpdate{Table: "router", Key: slot("slot-1"), Set: awsapi.Item{"n": 1}})
	if err == nil || !strings.Contains(err.Error(), "the attribute n has the type int,") {
		t.Errorf("got %v", err)
	}
}

// TestTableErrors: the region of an ARN wins, and errors name the fix.
func TestTableErrors(t *testing.T) {
	server, c := serve(t, slots(), "1", awsapi.Options{})
	_, err := c.QueryItems(t.Context(), "none", "pk", "edge")
	if want := `calling dynamodb:Query for table "none": ResourceNotFoundException: Requested resource not found; create the table in eu-west-1, or correct its name`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	t.Setenv("AWS_REGION", "us-west-2")
	elsewhere := client(t, awsapi.Options{})
	if _, err := elsewhere.QueryItems(t.Context(), "arn:aws:dynamodb:eu-west-1:123456789012:table/router", "pk", "edge"); err != nil {
		t.Errorf("by ARN from another region: %v", err)
	}
	if _, err := elsewhere.QueryItems(t.Context(), "router", "pk", "edge"); err == nil {
		t.Error("the name was found in the wrong region")
	}
	server.Fail("dynamodb:Query", awstest.Failure{Status: http.StatusBadRequest, Code: "AccessDeniedException", Message: "User: x is not authorized to perform: kms:Decrypt on resource: key"})
	if _, err := c.QueryItems(t.Context(), "router", "pk", "edge"); err == nil || !strings.Contains(err.Error(), "allow kms:Decrypt on the table's KMS key") {
		t.Errorf("got %v", err)
	}
	server.Close()
	if _, err := c.QueryItems(t.Context(), "router", "pk", "edge"); err == nil || !strings.Contains(err.Error(), "the gateway endpoint com.amazonaws.eu-west-1.dynamodb") {
		t.Errorf("unreachable: %v", err)
	}
}
