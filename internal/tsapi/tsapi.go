// Package tsapi implements the part of Tailscale's API that a router needs: an access token for
// an OAuth client or a federated identity, an auth key, devices with their routes, the removal of a
// device, and the tailnet's split DNS.
//
// A call is one HTTP exchange without retries: the login code has its own backoff and honours
// RetryAfter of the error. Every failed call returns a [*problem.Problem], which never contains a credential.
package tsapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/secret"
)

// DefaultURL is Tailscale's own API.
const DefaultURL = "https://api.tailscale.com"

// The names of the calls, for [Config].Called and metrics.
const (
	CallToken         = "token"
	CallTokenExchange = "token_exchange"
	CallCreateKey     = "create_key"
	CallDeleteDevice  = "delete_device"
	CallGetSplitDNS   = "get_split_dns"
	CallPatchSplitDNS = "patch_split_dns"
	CallGetDNS        = "get_dns_configuration"
	CallListDevices   = "list_devices"
	CallDeviceRoutes  = "device_routes"
)

// Calls lists the names of the calls that a running router makes. `router verify` makes the others.
var Calls = []string{CallToken, CallTokenExchange, CallCreateKey, CallDeleteDevice, CallGetSplitDNS, CallPatchSplitDNS, CallGetDNS}

// Config configures a [Client]. The zero value calls Tailscale's own API.
type Config struct {
	URL string // without a trailing slash; "" means [DefaultURL]
	// Timeout bounds one call; 0 means 10 s.
	Timeout time.Duration
	// Called is called after each call; the error is nil or a [*problem.Problem]. Default: nothing
	// is called.
	Called func(call string, err error)
	// Transport sends the requests. Default: a transport that uses the proxy of the
	// standard environment.
	Transport http.RoundTripper
}

// transport is shared, so that clients share connections.
var transport = httpproxy.Transport()

// Client calls the API. It is safe for concurrent use.
type Client struct {
	url    string
	called func(call string, err error)
	http   http.Client
}

// New returns a client. It makes no call.
func New(c Config) *Client {
	client := &Client{url: c.URL, called: c.Called, http: http.Client{Transport: c.Transport, Timeout: c.Timeout}}
	if client.http.Transport == nil {
		client.http.Transport = transport
	}
	if client.url == "" {
		client.url = DefaultURL
	}
	if client.called == nil {
		client.called = func(string, error) {}
	}
	if client.http.Timeout == 0 {
		client.http.Timeout = 10 * time.Second
	}
	// A redirect could send the credential to another server.
	client.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// URL returns the URL of the API.
func (c *Client) URL() string { return c.url }

// Token permits its holder to make calls for a time, usually an hour.
type Token struct {
	Value   secret.String
	Expires time.Time
}

// Valid reports whether the token is good for a call made now.
func (t Token) Valid() bool { return t.Value != "" && time.Until(t.Expires) > time.Minute }

// maxTokenLife bounds the reported lifetime of a token, in seconds; Tailscale's is an hour.
const maxTokenLife = 24 * 3600

// ClientToken returns a token for an OAuth client.
func (c *Client) ClientToken(ctx context.Context, id string, clientSecret secret.String) (Token, error) {
	return c.token(ctx, CallToken, "/api/v2/oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {clientSecret.Reveal()},
	})
}

// IdentityToken returns a token for a federated identity that jwt proves.
func (c *Client) IdentityToken(ctx context.Context, id string, jwt secret.String) (Token, error) {
	return c.token(ctx, CallTokenExchange, "/api/v2/oauth/token-exchange", url.Values{
		"client_id": {id}, "jwt": {jwt.Reveal()},
	})
}

func (c *Client) token(ctx context.Context, call, path string, form url.Values) (Token, error) {
	var out struct {
		AccessToken secret.String `json:"access_token"`
		ExpiresIn   int           `json:"expires_in"`
	}
	start := time.Now()
	err := c.do(ctx, request{
		call: call, path: path, contentType: "application/x-www-form-urlencoded", body: []byte(form.Encode()),
		secrets: []string{form.Get("client_secret"), form.Get("jwt")},
	}, &out, func() bool { return out.AccessToken != "" })
	secret.Remember(out.AccessToken.Reveal())
	life := time.Duration(min(max(out.ExpiresIn, 0), maxTokenLife)) * time.Second
	return Token{out.AccessToken, start.Add(life)}, err
}

// KeyRequest describes an auth key for one node.
type KeyRequest struct {
	Tags          []string
	Ephemeral     bool          // control removes the node when it goes offline
	Preauthorized bool          // the node needs no device approval
	Expiry        time.Duration // of the key, not of the node; whole seconds
}

// Key is a new auth key.
type Key struct {
	ID      string
	Value   secret.String
	Expires time.Time
}

// CreateKey creates an auth key for one node.
func (c *Client) CreateKey(ctx context.Context, token Token, r KeyRequest) (Key, error) {
	type create struct {
		Reusable      bool     `json:"reusable"`
		Ephemeral     bool     `json:"ephemeral"`
		Preauthorized bool     `json:"preauthorized"`
		Tags          []string `json:"tags"`
	}
	in := map[string]any{
		"description":   "subnetrouter",
		"expirySeconds": int(r.Expiry / time.Second),
		"capabilities": map[string]any{"devices": map[string]any{
			"create": create{Ephemeral: r.Ephemeral, Preauthorized: r.Preauthorized, Tags: r.Tags},
		}},
	}
	body, err := json.Marshal(in)
	if err != nil {
		return Key{}, err // cannot happen: the values are strings, numbers and booleans
	}
	var out struct {
		ID      string        `json:"id"`
		Key     secret.String `json:"key"`
		Expires time.Time     `json:"expires"`
	}
	err = c.do(ctx, request{
		call: CallCreateKey, path: "/api/v2/tailnet/-/keys", contentType: "application/json", body: body,
		bearer: token.Value, tags: r.Tags, secrets: []string{token.Value.Reveal()},
	}, &out, func() bool { return out.Key != "" })
	secret.Remember(out.Key.Reveal())
	return Key{out.ID, out.Key, out.Expires}, err
}

// nodeID matches the ID of a device.
var nodeID = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)

// DeleteDevice removes a device from the tailnet. id is its node ID, which control also calls
// the stable ID, such as nRxLnSB8y621DEVEL. A device that does not exist counts as removed.
// The client or identity needs the scope devices:core.
func (c *Client) DeleteDevice(ctx context.Context, token Token, id string) error {
	r := request{
		call: CallDeleteDevice, method: http.MethodDelete, path: "/api/v2/device/" + id,
		bearer: token.Value, secrets: []string{token.Value.Reveal()}, mayBeMissing: true,
	}
	if !nodeID.MatchString(id) { // anything else could change the path
		r.path = "/api/v2/device/"
		return c.fail(r, other, "the node ID is malformed")
	}
	return c.do(ctx, r, nil, nil)
}

// request is one call, with the data for its error.
type request struct {
	call, path, contentType string
	method                  string // "" means POST
	body                    []byte
	bearer                  secret.String
	tags                    []string
	secrets                 []string // values that must not appear in an error
	mayBeMissing            bool     // HTTP 404 is a success
	maxAnswer               int64    // in bytes; 0 means maxAnswer
}

// maxAnswer bounds the size of an answer other than a list; none comes close.
const maxAnswer = 1 << 20

// do makes a call and returns nil or a [*problem.Problem]. complete reports whether the answer has the
// expected fields. If out is nil, the content of the answer does not matter.
func (c *Client) do(ctx context.Context, r request, out any, complete func() bool) (err error) {
	defer func() { c.called(r.call, err) }()
	req, err := http.NewRequestWithContext(ctx, cmp.Or(r.method, http.MethodPost), c.url+r.path, bytes.NewReader(r.body))
	if err != nil {
		return c.fail(r, unavailable, "the URL is malformed")
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "subnetrouter")
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer.Reveal())
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.networkError(ctx, r, err)
	}
	defer res.Body.Close()
	limit := cmp.Or(r.maxAnswer, maxAnswer)
	body, err := io.ReadAll(io.LimitReader(res.Body, limit))
	if err != nil {
		return c.networkError(ctx, r, err)
	}
	if r.mayBeMissing && res.StatusCode == http.StatusNotFound {
		return nil
	}
	if res.StatusCode/100 != 2 {
		return c.statusError(r, res, body)
	}
	if out == nil {
		return nil
	}
	if int64(len(body)) == limit {
		return c.fail(r, other, fmt.Sprintf("the answer has more than %d bytes", limit))
	}
	if json.Unmarshal(body, out) != nil || !complete() { // the decoder's error is not shown: it may quote the answer
		return c.fail(r, unavailable, "the answer is truncated or not what Tailscale's API sends")
	}
	return nil
}

// maxErrorText bounds the API's text in an error, in bytes.
const maxErrorText = 300

// errorText returns the text in an error's body: Tailscale's "message", or OAuth's fields.
func errorText(body []byte, secrets []string) string {
	var in struct {
		Message     string `json:"message"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	text := ""
	if json.Unmarshal(body, &in) == nil {
		for _, s := range []string{in.Message, in.Description, in.Error} {
			if text = strings.Join(strings.Fields(s), " "); text != "" {
				break
			}
		}
	}
	secret.Remember(secrets...)
	for _, s := range secrets { // including short ones, which secret.Remember ignores
		if s != "" {
			text = strings.ReplaceAll(text, s, "<redacted>")
		}
	}
	return secret.Clean(text, maxErrorText)
}

// cause returns the network's error without Go's layers around it.
func cause(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if u.Timeout() {
			return "no answer in time"
		}
		return secret.Clean(u.Err.Error(), maxErrorText)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "the connection was cut"
	}
	return secret.Clean(err.Error(), maxErrorText)
}
