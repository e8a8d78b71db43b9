package tsapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tsapi"
)

// exampleDevices is an answer with the fields that Tailscale's API documents.
const exampleDevices = `{"devices":[
 {"addresses":["100.87.74.78","fd7a:115c:a1e0:ac82:4843:ca90:697d:c36e"],"id":"92960230385","nodeId":"n292kg92CNTRL","user":"amelie@example.com",
  "name":"vpc-prod.tail1.ts.net","hostname":"vpc-prod","clientVersion":"v1.104.5","updateAvailable":false,"os":"linux","created":"2026-11-01T05:23:30Z",
  "connectedToControl":true,"keyExpiryDisabled":true,"expires":"2027-05-30T04:44:05Z","authorized":true,"isExternal":false,"machineKey":"",
  "nodeKey":"nodekey:01","blocksIncomingConnections":false,"tags":["tag:subnet-router","tag:prod"],"tailnetLockError":"","tailnetLockKey":"","isEphemeral":true},
 {"nodeId":"nOldCNTRL","name":"vpc-prod-1.tail1.ts.net","hostname":"vpc-prod","connectedToControl":false,"lastSeen":"2026-11-26T05:23:30Z","created":"","authorized":true,"tags":["tag:subnet-router"]},
 {"nodeId":"nSharedCNTRL","name":"vpc-prod.other.ts.net","hostname":"vpc-prod","isExternal":true,"created":"","expires":""},
 {"nodeId":"nLaptopCNTRL","name":"laptop.tail1.ts.net","hostname":"laptop","connectedToControl":true,"authorized":true}]}`

// TestDevices: devices are selected by each field, also by a server that does not filter.
func TestDevices(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/api/v2/tailnet/-/devices":
			fmt.Fprint(w, exampleDevices)
		case "/api/v2/device/n292kg92CNTRL/routes":
			fmt.Fprint(w, `{"advertisedRoutes":["10.0.0.0/16","192.168.1.0/24"],"enabledRoutes":["10.0.0.0/16"]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	api, token := tsapi.New(tsapi.Config{URL: server.URL}), tsapi.Token{Value: "tskey-api-t0k3n"}
	for _, tc := range []struct {
		field       tsapi.DeviceField
		value, want string
	}{
		{tsapi.ByHostname, "vpc-prod", "n292kg92CNTRL nOldCNTRL"},
		{tsapi.ByTag, "tag:prod", "n292kg92CNTRL"},
		{tsapi.ByName, "vpc-prod-1.tail1.ts.net", "nOldCNTRL"},
		{tsapi.ByID, "nLaptopCNTRL", "nLaptopCNTRL"},
		{tsapi.ByHostname, "x&hostname=vpc-prod", ""},
		{tsapi.ByHostname, "", ""},
	} {
		list, err := api.Devices(t.Context(), token, tc.field, tc.value)
		var ids []string
		for _, d := range list {
			ids = append(ids, d.ID)
		}
		if got := strings.Join(ids, " "); got != tc.want || err != nil {
			t.Errorf("%s=%s: %q, %v", tc.field, tc.value, got, err)
		}
	}
	if want := "GET /api/v2/tailnet/-/devices?fields=default&hostname=vpc-prod Bearer tskey-api-t0k3n"; asked[0] != want {
		t.Errorf("asked %q, want %q", asked[0], want)
	}
	advertised, approved, err := api.DeviceRoutes(t.Context(), token, "n292kg92CNTRL")
	if !slices.Equal(advertised, []string{"10.0.0.0/16", "192.168.1.0/24"}) || !slices.Equal(approved, []string{"10.0.0.0/16"}) || err != nil {
		t.Errorf("routes %q, approved %q: %v", advertised, approved, err)
	}
	if advertised, _, err := api.DeviceRoutes(t.Context(), token, "nGoneCNTRL"); len(advertised) > 0 || err != nil {
		t.Errorf("a device that is gone: %q, %v", advertised, err)
	}
	asked = nil
	for _, id := range []string{"", "..", "x/y", "x?y"} {
		if _, _, err := api.DeviceRoutes(t.Context(), token, id); err == nil || asked != nil {
			t.Errorf("ID %q: %v, asked %q", id, err, asked)
		}
	}
}

// TestDeviceFailures checks the operator's message for each failure of the calls about devices.
func TestDeviceFailures(t *testing.T) {
	const token = "tskey-api-s3cr3t"
	var status int
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 0 {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	patient, hasty := tsapi.New(tsapi.Config{URL: server.URL}), tsapi.New(tsapi.Config{URL: server.URL, Timeout: 200 * time.Millisecond})
	for _, tc := range []struct {
		status int
		body   string
		code   problem.Code
		want   string
	}{
		{401, `{"message":"API token invalid"}`, problem.IdentityRefused, "HTTP 401: API token invalid; the access token expired or was revoked: create another one"},
		{403, `{"message":"calling actor does not have enough permissions to perform this function"}`, problem.IdentityRefused, "give the OAuth client or federated identity the scopes devices:core:read and devices:routes:read"},
		{404, "404 page not found", problem.JoinFailed, "does not have Tailscale's API for devices"},
		{429, `{"message":"` + token + `"}`, problem.CredentialThrottled, "HTTP 429: <redacted>"},
		{504, "", problem.CredentialUnreachable, "HTTPS to "},
		{302, "", problem.CredentialUnreachable, "HTTP 302"},
		{200, `{"devices":{"nodeId":"` + token + `"}}`, problem.CredentialUnreachable, "truncated or not what Tailscale's API sends"},
		{200, `{}`, problem.CredentialUnreachable, "truncated or not what"},
		{200, `<html>`, problem.CredentialUnreachable, "truncated or not what"},
		{200, strings.Repeat(" ", 17<<20), problem.JoinFailed, "the answer has more than 16777216 bytes"},
		{0, "", problem.CredentialUnreachable, "no answer in time"},
	} {
		status, body = tc.status, tc.body
		api := patient
		if status == 0 {
			api = hasty
		}
		_, err := api.Devices(t.Context(), tsapi.Token{Value: secret.String(token)}, tsapi.ByHostname, "vpc-prod")
		if problem.CodeOf(err, "") != tc.code || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), token) {
			t.Errorf("%d: %v: %v", tc.status, problem.CodeOf(err, ""), err)
		}
		if wait := problem.Of(err).RetryAfter; tc.status == 429 && wait != 7*time.Second {
			t.Errorf("retry after %v", wait)
		}
		if tc.status == 404 || len(tc.body) > 1<<20 {
			continue // a device that is gone; the other bound
		}
		if _, _, err := api.DeviceRoutes(t.Context(), tsapi.Token{Value: secret.String(token)}, "n1"); problem.CodeOf(err, "") != tc.code {
			t.Errorf("%d: routes: %v", tc.status, err)
		}
	}
}
