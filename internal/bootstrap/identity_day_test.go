package bootstrap_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/backoff"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/slot"
)

// inBubble carries requests to handlers inside a synctest bubble, which has no network.
type inBubble struct{ aws, metadata http.Handler }

func (b inBubble) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := b.aws
	if r.Method == http.MethodGet {
		handler = b.metadata
	}
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

// bubbleClock is the clock of a synctest bubble.
type bubbleClock struct{ start time.Time }

func (c bubbleClock) Now() time.Duration { return time.Since(c.start) }
func (c bubbleClock) Wall() time.Time    { return time.Now() }
func (c bubbleClock) Sleep(ctx context.Context, d time.Duration) bool {
	return backoff.Sleep(ctx, d)
}

// TestIdentityOfADay holds a slot for 24 hours of simulated time, with the real AWS SDK,
// through outages of DynamoDB, and counts the calls. The state is written once: the engine
// stores it again and again, but it rarely changes.
func TestIdentityOfADay(t *testing.T) {
	a := start(t, member(1))
	a.Server.Update(addIdentities)
	t.Setenv("AWS_MAX_ATTEMPTS", "3")
	source, err := identity.Parse("dynamodb:routers?kms=" + stateKey)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		c := a.config("10.0.0.0/16")
		c.Identity.Source, c.Transport, c.Clock = source, inBubble{a.Server, a.Metadata}, bubbleClock{time.Now()}
		i, err := bootstrap.New(c).Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); i.Run(ctx) }()
		for hour := range 24 {
			if hour == 8 || hour == 16 { // an outage of 25 minutes
				for _, action := range []string{"dynamodb:UpdateItem", "dynamodb:Query"} {
					a.Server.Fail(action, awstest.Down())
				}
				time.Sleep(25 * time.Minute)
				for _, action := range []string{"dynamodb:UpdateItem", "dynamodb:Query"} {
					a.Server.Fail(action, awstest.Failure{})
				}
			}
			for range 6 {
				time.Sleep(10 * time.Minute)
				if err := i.State.Save([]byte(nodeState)); err != nil {
					t.Fatal(err)
				}
			}
		}
		select {
		case <-i.Lost():
			t.Fatalf("the lease was lost: %v", i.Slot.Why())
		default:
		}
		cancel()
		<-ended
		if err := i.Slot.Release(t.Context(), slot.Stays); err != nil {
			t.Error(err)
		}
	})
	counts := map[string]int{}
	for _, call := range a.Calls() {
		counts[call]++
	}
	t.Log(counts)
	// A day and 50 minutes: a renewal each 30 s, and during the outages one each 5 s, which
	// the SDK tries three times. A list of the slots each 5 minutes, and the same.
	for action, limits := range map[string][2]int{
		"dynamodb:UpdateItem": {2800, 4600}, "dynamodb:Query": {270, 330},
		"kms:GenerateDataKey": {1, 1}, "ecs:DescribeServices": {1, 1}, "ecs:DescribeTasks": {0, 0}, "kms:Decrypt": {0, 0},
	} {
		if n := counts[action]; n < limits[0] || n > limits[1] {
			t.Errorf("%d calls of %s, want %d to %d", n, action, limits[0], limits[1])
		}
	}
}
