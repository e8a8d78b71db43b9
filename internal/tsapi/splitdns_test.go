package tsapi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/tsapi"
)

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestSplitDNS checks that a change leaves other domains and the options of nameservers alone.
func TestSplitDNS(t *testing.T) {
	client := tailnettest.NewOAuthClient(tag)
	client.DNS = true
	net := start(t, client)
	net.SetSplitDNS(map[string][]tailnettest.Nameserver{
		"a.example": {{Address: "10.0.0.2"}, {Address: "10.9.0.2", UseWithExitNode: true}},
		"b.example": {{Address: "10.1.0.2"}},
		"c.example": {{Address: "10.1.0.2"}},
	})
	api := tsapi.New(tsapi.Config{URL: net.ControlURL()})
	token, err := api.ClientToken(t.Context(), client.ID, secret.String(client.Secret))
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.SplitDNS(t.Context(), token)
	if want := `{"a.example":["10.0.0.2",{"address":"10.9.0.2","useWithExitNode":true}],"b.example":["10.1.0.2"],"c.example":["10.1.0.2"]}`; err != nil || text(got) != want {
		t.Fatalf("got %s: %v", text(got), err)
	}
	full, err := api.SplitDNSWithOptions(t.Context(), token)
	if want := `{"a.example":[{"address":"10.0.0.2"},{"address":"10.9.0.2","useWithExitNode":true}],"b.example":[{"address":"10.1.0.2"}],"c.example":[{"address":"10.1.0.2"}]}`; err != nil || text(full) != want {
		t.Fatalf("with options: got %s: %v", text(full), err)
	}
	err = api.PatchSplitDNS(t.Context(), token, tsapi.SplitDNS{
		"a.example": append(got["a.example"], json.RawMessage(`"10.3.0.2"`)), "b.example": {}, "d.example": {json.RawMessage(`"fd7a:115c:a1e0:b1a:0:7:a00:2"`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"a.example":["10.0.0.2",{"address":"10.9.0.2","useWithExitNode":true},"10.3.0.2"],"c.example":["10.1.0.2"],"d.example":["fd7a:115c:a1e0:b1a:0:7:a00:2"]}`
	if got := text(net.SplitDNS()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	net.HideDNSOptions()
	if got, err := api.SplitDNS(t.Context(), token); err != nil || text(got["a.example"]) != `["10.0.0.2","10.9.0.2","10.3.0.2"]` {
		t.Errorf("without options: got %s: %v", text(got), err)
	}
}

// TestSplitDNSFailures checks the failures that a caller distinguishes.
func TestSplitDNSFailures(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		is     error
		code   problem.Code
		want   string // "": no error of a read
	}{
		{200, `{}`, nil, "", ""},
		{200, `null`, nil, "", ""},
		{200, `{"a.example":null}`, nil, "", ""},
		{200, `{"a.example":"10.0.0.2"}`, nil, problem.CredentialUnreachable, "not what Tailscale's API sends"},
		{200, `[]`, nil, problem.CredentialUnreachable, "not what Tailscale's API sends"},
		{401, `{"message":"API token invalid"}`, tsapi.ErrRefused, problem.IdentityRefused, "revoked"},
		{403, `{"message":"calling actor does not have enough permissions to perform this function"}`, tsapi.ErrDenied, problem.IdentityRefused, "the scope dns (write)"},
		{404, `404 page not found`, tsapi.ErrUnsupported, problem.JoinFailed, "ROUTER_DNS_REGISTER=off"},
		{405, ``, tsapi.ErrUnsupported, problem.JoinFailed, "ROUTER_DNS_REGISTER=off"},
		{501, ``, tsapi.ErrUnsupported, problem.JoinFailed, "ROUTER_DNS_REGISTER=off"},
		{429, ``, nil, problem.CredentialThrottled, "retries more slowly"},
		{503, ``, nil, problem.CredentialUnreachable, "NAT gateway"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "40")
			w.WriteHeader(test.status)
			w.Write([]byte(test.body))
		}))
		api := tsapi.New(tsapi.Config{URL: server.URL})
		token := tsapi.Token{Value: "t0k3n", Expires: time.Now().Add(time.Hour)}
		_, err := api.SplitDNS(t.Context(), token)
		errs := []error{err}
		if test.status != 200 {
			_, full := api.SplitDNSWithOptions(t.Context(), token)
			errs = append(errs, full, api.PatchSplitDNS(t.Context(), token, tsapi.SplitDNS{"a.example": nil}))
		}
		server.Close()
		for _, err := range errs {
			if (err == nil) != (test.want == "") || problem.CodeOf(err, "") != test.code {
				t.Errorf("%d %s: got %v, want code %v", test.status, test.body, err, test.code)
				continue
			}
			if err == nil {
				continue
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "t0k3n") {
				t.Errorf("%d: got %v, want %q", test.status, err, test.want)
			}
			for _, is := range []error{tsapi.ErrRefused, tsapi.ErrDenied, tsapi.ErrUnsupported} {
				if errors.Is(err, is) != errors.Is(test.is, is) {
					t.Errorf("%d: is %v: %v", test.status, is, errors.Is(err, is))
				}
			}
			if wait := problem.Of(err).RetryAfter; test.status == 429 && wait != 40*time.Second {
				t.Errorf("retry after %v", wait)
			}
		}
	}
}

// TestSplitDNSScopes checks the scopes of the double.
func TestSplitDNSScopes(t *testing.T) {
	for name, test := range map[string]struct {
		dns, read          bool
		mayRead, mayChange bool
	}{
		"none": {}, "dns:read": {read: true, mayRead: true}, "dns": {dns: true, mayRead: true, mayChange: true},
	} {
		client := tailnettest.NewOAuthClient(tag)
		client.DNS, client.DNSRead = test.dns, test.read
		net := start(t, client)
		api := tsapi.New(tsapi.Config{URL: net.ControlURL()})
		token, err := api.ClientToken(t.Context(), client.ID, secret.String(client.Secret))
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.SplitDNS(t.Context(), token)
		changed := api.PatchSplitDNS(t.Context(), token, tsapi.SplitDNS{"a.example": {json.RawMessage(`"10.0.0.2"`)}})
		if (err == nil) != test.mayRead || (changed == nil) != test.mayChange {
			t.Errorf("%s: read %v, change %v", name, err, changed)
		}
	}
}
