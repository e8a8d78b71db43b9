package ecsmeta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/problem"
)

// The endpoint is on the same host and answers in milliseconds, but may not be ready when the
// task starts. Hence several short attempts, at most 4 × 2 s + 0.1 s + 0.2 s + 0.4 s for each
// of its two documents.
const (
	tries      = 4
	tryTimeout = 2 * time.Second
	firstPause = 100 * time.Millisecond // doubles
	bodyLimit  = 1 << 20                // bytes; a task with ten containers takes about 20 KiB
)

// Client reads the metadata of one task.
type Client struct {
	uri  string
	http *http.Client
}

// New returns a client for the endpoint at uri, the value of [Variable]. If client is nil it
// uses one without a proxy, as the address is link-local.
func New(uri string, client *http.Client) *Client {
	if client == nil {
		client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	return &Client{uri: strings.TrimSuffix(uri, "/"), http: client}
}

// Task returns the metadata of this container and its task. Its errors name [Variable] and the
// fix.
func (c *Client) Task(ctx context.Context) (Task, error) {
	if c.uri == "" {
		return Task{}, problem.New("ECS sets it in every task, elsewhere set ROUTER_ROUTES to CIDRs", "reading task metadata: %s is not set", Variable)
	}
	var container wireContainer
	err := c.fetch(ctx, "", func(body []byte) error {
		container = wireContainer{}
		if err := json.Unmarshal(body, &container); err != nil {
			return err
		}
		if len(container.Networks) == 0 {
			return errNoNetworks // the agent may not know them yet
		}
		return nil
	})
	if err != nil {
		return Task{}, c.explain(ctx, "", err)
	}
	var task wireTask
	err = c.fetch(ctx, "/task", func(body []byte) error { return json.Unmarshal(body, &task) })
	if err != nil {
		return Task{}, c.explain(ctx, "/task", err)
	}
	t, err := merge(container, task)
	if err != nil {
		return Task{}, c.explain(ctx, "", err)
	}
	return t, nil
}

// fetch retries until accept returns nil for the body, and returns the last error.
func (c *Client) fetch(ctx context.Context, path string, accept func(body []byte) error) error {
	var err error
	for i := range tries {
		if i > 0 && !backoff.Sleep(ctx, firstPause<<(i-1)) {
			return ctx.Err()
		}
		var body []byte
		if body, err = c.get(ctx, path); err == nil {
			err = accept(body)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.uri+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP status %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit+1))
	if len(body) > bodyLimit {
		return nil, fmt.Errorf("the answer is larger than %d bytes", bodyLimit)
	}
	return body, err
}

// explain returns the error for the operator, with the fix.
func (c *Client) explain(ctx context.Context, path string, cause error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("reading task metadata: %w", ctx.Err())
	}
	if u := (*url.Error)(nil); errors.As(cause, &u) {
		cause = u.Err // its text would repeat the address
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		cause = fmt.Errorf("no answer within %v, %d times", tryTimeout, tries)
	}
	advice := "ECS sets this variable in every task (Fargate platform 1.4.0, EC2 agent 1.39.0 or later); elsewhere unset it and set ROUTER_ROUTES to CIDRs"
	if errors.Is(cause, errNoNetworks) {
		advice = "run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs"
	}
	return problem.New(advice, "reading task metadata from %s=%s%s: %w", Variable, c.uri, path, cause)
}
