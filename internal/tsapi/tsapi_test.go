package tsapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/tsapi"
)

const tag = "tag:subnet-router"

func start(t *testing.T, clients ...tailnettest.OAuthClient) *tailnettest.Tailnet {
	t.Helper()
	net, err := tailnettest.Start(tailnettest.Config{API: tailnettest.API{Clients: clients}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { net.Close() })
	return net
}

func TestKeyForOAuthClient(t *testing.T) {
	client := tailnettest.NewOAuthClient(tag)
	net := start(t, client)
	var called []string
	api := tsapi.New(tsapi.Config{URL: net.ControlURL(), Called: func(call string, err error) {
		called = append(called, fmt.Sprint(call, " ", err))
	}})
	token, err := api.ClientToken(t.Context(), client.ID, secret.String(client.Secret))
	if err != nil || !token.Valid() || time.Until(token.Expires) > time.Hour {
		t.Fatalf("token until %v: %v", token.Expires, err)
	}
	key, err := api.CreateKey(t.Context(), token, tsapi.KeyRequest{Tags: []string{tag}, Ephemeral: true, Preauthorized: true, Expiry: 10 * time.Minute})
	if err != nil || !strings.HasPrefix(key.Value.Reveal(), "tskey-auth-") || key.ID == "" {
		t.Fatalf("key %q: %v", key.ID, err)
	}
	if left := time.Until(key.Expires); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("the key expires in %v", left)
	}
	if want := []string{"token <nil>", "create_key <nil>"}; !slices.Equal(called, want) {
		t.Errorf("called %q, want %q", called, want)
	}
	// The token of a deleted client is refused.
	net.SetAPI(t.Context(), tailnettest.API{})
	_, err = api.CreateKey(t.Context(), token, tsapi.KeyRequest{Tags: []string{tag}, Expiry: time.Minute})
	if !errors.Is(err, tsapi.ErrRefused) {
		t.Errorf("with a revoked client: %v", err)
	}
}

// TestFailures checks the operator's message for each failure of the API.
func TestFailures(t *testing.T) {
	client := tailnettest.NewOAuthClient(tag)
	const (
		reach = "; the task's subnet needs a way to API (NAT gateway or proxy), and its security groups must allow port 443"
		dead  = "; the OAuth client was revoked, or the secret belongs to another one: create one with the same scopes and tags, and store its secret"
	)
	for name, test := range map[string]struct {
		path string
		fail tailnettest.APIFailure
		code problem.Code
		want string
	}{
		"revoked":       {tailnettest.APIToken, tailnettest.APIFailure{Status: 401, Message: "API token invalid"}, problem.IdentityRefused, "HTTP 401: API token invalid" + dead},
		"OAuth's words": {tailnettest.APIToken, tailnettest.APIFailure{Status: 400, Body: `{"error":"invalid_client","error_description":"no client SECRET"}`}, problem.IdentityRefused, "HTTP 400: no client <redacted>" + dead},
		"no words":      {tailnettest.APIToken, tailnettest.APIFailure{Status: 403, Body: "<html>"}, problem.IdentityRefused, "HTTP 403: Forbidden" + dead},
		"throttled":     {tailnettest.APIToken, tailnettest.APIFailure{Status: 429, Message: "rate limited", RetryAfter: "7"}, problem.CredentialThrottled, "HTTP 429: rate limited; wait: the router retries more slowly"},
		"down":          {tailnettest.APIToken, tailnettest.APIFailure{Status: 503, Body: "<html>"}, problem.CredentialUnreachable, "HTTP 503: Service Unavailable" + reach},
		"redirect":      {tailnettest.APIToken, tailnettest.APIFailure{Status: 302}, problem.CredentialUnreachable, "HTTP 302: Found" + reach},
		"cut":           {tailnettest.APIToken, tailnettest.APIFailure{Cut: true}, problem.CredentialUnreachable, "the connection was cut" + reach},
		"nonsense":      {tailnettest.APIToken, tailnettest.APIFailure{Status: 200, Body: `{"access_token":`}, problem.CredentialUnreachable, "the answer is truncated or not what Tailscale's API sends" + reach},
		"half":          {tailnettest.APIKeys, tailnettest.APIFailure{Status: 200, Body: `{"id":"k"}`}, problem.CredentialUnreachable, "the answer is truncated or not what Tailscale's API sends" + reach},
		"slow":          {tailnettest.APIToken, tailnettest.APIFailure{Delay: time.Minute}, problem.CredentialUnreachable, "no answer in time" + reach},
		"tags":          {tailnettest.APIKeys, tailnettest.APIFailure{Status: 400, Message: "requested tags [" + tag + "] are invalid or not permitted"}, problem.TagsRefused, "HTTP 400: requested tags [" + tag + "] are invalid or not permitted; make the tags of the OAuth client or federated identity and ROUTER_TAGS=" + tag + " the same: the API gives a key all tags of a client or those that it owns, and tagOwners of the policy file must list each"},
		"scope":         {tailnettest.APIKeys, tailnettest.APIFailure{Status: 403, Message: "calling actor does not have enough permissions to perform this function"}, problem.IdentityRefused, "HTTP 403: calling actor does not have enough permissions to perform this function; give the OAuth client or federated identity the scope auth_keys (write)"},
		"other":         {tailnettest.APIKeys, tailnettest.APIFailure{Status: 422, Message: "expirySeconds out of range"}, problem.JoinFailed, "HTTP 422: expirySeconds out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			net := start(t, client)
			test.fail.Body = strings.ReplaceAll(test.fail.Body, "SECRET", client.Secret)
			net.FailAPI(test.path, test.fail)
			api := tsapi.New(tsapi.Config{URL: net.ControlURL(), Timeout: 500 * time.Millisecond})
			err := mint(t.Context(), api, client)
			if code := problem.CodeOf(err, ""); err == nil || code != test.code {
				t.Fatalf("got %v: %v, want code %v", code, err, test.code)
			}
			if refused := errors.Is(err, tsapi.ErrRefused); refused != strings.HasSuffix(test.want, dead) {
				t.Errorf("refused: %v", refused)
			}
			want := "calling " + net.ControlURL() + test.path + ": " + strings.ReplaceAll(test.want, "API (", net.ControlURL()+" (")
			if err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if wait := problem.Of(err).RetryAfter; name == "throttled" && wait != 7*time.Second {
				t.Errorf("retry after %v", wait)
			}
			net.FailAPI(test.path, tailnettest.APIFailure{})
			if err := mint(t.Context(), api, client); err != nil {
				t.Errorf("after the failure was fixed: %v", err)
			}
		})
	}
}

func mint(ctx context.Context, api *tsapi.Client, client tailnettest.OAuthClient) error {
	token, err := api.ClientToken(ctx, client.ID, secret.String(client.Secret))
	if err != nil {
		return err
	}
	_, err = api.CreateKey(ctx, token, tsapi.KeyRequest{Tags: []string{tag}, Expiry: time.Minute})
	return err
}

// TestDeleteDevice uses a server of its own; package tailnettest tests its double with a node.
func TestDeleteDevice(t *testing.T) {
	var status int
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization")
		w.WriteHeader(status)
		fmt.Fprint(w, `{"message":"the API's words"}`)
	}))
	defer server.Close()
	var called error
	api := tsapi.New(tsapi.Config{URL: server.URL, Called: func(call string, err error) {
		if called = err; call != tsapi.CallDeleteDevice {
			t.Errorf("call %s", call)
		}
	}})
	token := tsapi.Token{Value: "t0k3n", Expires: time.Now().Add(time.Hour)}
	for _, test := range []struct {
		status int
		code   problem.Code // "": no error
		want   string
	}{
		{200, "", ""},
		{204, "", ""},
		{404, "", ""},
		{401, problem.IdentityRefused, "create another one with the scope devices:core (write)"},
		{403, problem.IdentityRefused, "HTTP 403: the API's words; give the OAuth client or federated identity the scope devices:core (write)"},
		{429, problem.CredentialThrottled, "wait"},
		{502, problem.CredentialUnreachable, "NAT gateway"},
		{400, problem.JoinFailed, "HTTP 400"},
	} {
		status, asked = test.status, ""
		err := api.DeleteDevice(t.Context(), token, "nRxLnSB8y621DEVEL")
		if problem.CodeOf(err, "") != test.code || err != nil && !strings.Contains(err.Error(), test.want) || (called == nil) != (err == nil) {
			t.Errorf("%d: got %v: %v, called with %v", test.status, problem.CodeOf(err, ""), err, called)
		}
		if asked != "DELETE /api/v2/device/nRxLnSB8y621DEVEL Bearer t0k3n" {
			t.Errorf("asked %q", asked)
		}
	}
	for _, id := range []string{"", "..", "x/y", "x?y", "x y", strings.Repeat("x", 65)} {
		asked = ""
		if err := api.DeleteDevice(t.Context(), token, id); err == nil || asked != "" {
			t.Errorf("ID %q: %v, asked %q", id, err, asked)
		}
	}
}

func TestExchange(t *testing.T) {
	for name, test := range map[string]struct {
		status  int
		message string
		code    problem.Code
	}{
		"untrusted": {403, "Unauthorized", problem.IdentityRefused},
		"malformed": {400, "invalid JWT format: expected 3 parts separated by '.', got 1", problem.IdentityRefused},
		"too old":   {403, "token is expired", problem.ClockSkew},
		"too new":   {403, "token used before issued", problem.ClockSkew},
	} {
		net := start(t)
		net.FailAPI(tailnettest.APITokenExchange, tailnettest.APIFailure{Status: test.status, Message: test.message})
		_, err := tsapi.New(tsapi.Config{URL: net.ControlURL()}).IdentityToken(t.Context(), "k1", "a.b.c")
		if code := problem.CodeOf(err, ""); code != test.code || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: got %v: %v, want code %v", name, code, err, test.code)
		}
	}
}

// TestNoSecretInErrors uses servers that echo their input.
func TestNoSecretInErrors(t *testing.T) {
	const clientSecret, jwt, token = "cl13nt-s3cr3t", "h34d.cl41ms.s1g", "t0k3n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"message":"%s %s %s"}`, r.Form.Get("client_secret"), r.Form.Get("jwt"), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}))
	defer server.Close()
	api := tsapi.New(tsapi.Config{URL: server.URL})
	_, byClient := api.ClientToken(t.Context(), "k1", clientSecret)
	_, byIdentity := api.IdentityToken(t.Context(), "k1", jwt)
	_, byKey := api.CreateKey(t.Context(), tsapi.Token{Value: token, Expires: time.Now().Add(time.Hour)}, tsapi.KeyRequest{Tags: []string{tag}})
	byDevice := api.DeleteDevice(t.Context(), tsapi.Token{Value: token, Expires: time.Now().Add(time.Hour)}, "n1")
	for _, err := range []error{byClient, byIdentity, byKey, byDevice} {
		if err == nil || !strings.Contains(err.Error(), "<redacted>") {
			t.Errorf("got %v, want a redacted value", err)
			continue
		}
		for _, s := range []string{clientSecret, jwt, token} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("the error contains %q: %v", s, err)
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	api := tsapi.New(tsapi.Config{URL: "http://127.0.0.1:1"})
	_, err := api.ClientToken(t.Context(), "k1", "s")
	const want = "calling http://127.0.0.1:1/api/v2/oauth/token: dial tcp 127.0.0.1:1: connect: connection refused; the task's subnet needs a way to http://127.0.0.1:1 (NAT gateway or proxy), and its security groups must allow port 443"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := api.ClientToken(ctx, "k1", "s"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller gave up: %v", err)
	}
}

// TestScopes: each refused call, of an unknown client or of one without the scope, names the scope that this call needs, and no other.
// A token has all scopes of its client, so a refusal of the token names none.
func TestScopes(t *testing.T) {
	var status int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	api := tsapi.New(tsapi.Config{URL: server.URL})
	ctx, token := t.Context(), tsapi.Token{Value: "t0k3n", Expires: time.Now().Add(time.Hour)}
	scope := regexp.MustCompile(`auth_keys|dns:read|dns|devices:core:read|devices:core|devices:routes:read`)
	for call, c := range map[string]struct {
		try             func() error
		denied, unknown []string // the scopes in the fix
	}{
		"token":  {func() error { _, err := api.ClientToken(ctx, "id", "s3cret"); return err }, nil, nil},
		"key":    {func() error { _, err := api.CreateKey(ctx, token, tsapi.KeyRequest{}); return err }, []string{"auth_keys"}, []string{"auth_keys"}},
		"delete": {func() error { return api.DeleteDevice(ctx, token, "nRxLnSB8y621DEVEL") }, []string{"devices:core"}, []string{"devices:core"}},
		"read":   {func() error { _, err := api.SplitDNS(ctx, token); return err }, []string{"dns", "dns:read"}, []string{"dns", "dns:read"}},
		"devices": {func() error { _, err := api.Devices(ctx, token, "hostname", "x"); return err },
			[]string{"devices:core:read", "devices:routes:read"}, nil}, // of an access token, which is made again
	} {
		for status = range map[int]bool{http.StatusForbidden: true, http.StatusUnauthorized: true} {
			want := c.denied
			if status == http.StatusUnauthorized {
				want = c.unknown
			}
			err := c.try()
			if err == nil {
				t.Fatalf("%s: no error", call)
			}
			if got := scope.FindAllString(problem.Of(err).Fix, -1); !slices.Equal(got, want) {
				t.Errorf("%s, HTTP %d: the fix %q names %q, want %q", call, status, problem.Of(err).Fix, got, want)
			}
		}
	}
}
