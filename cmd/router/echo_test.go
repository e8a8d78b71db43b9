package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnettest"

	"tailscale.com/tailcfg"
)

// everything returns the output and all pages of a router.
func (c *child) everything() string {
	c.t.Helper()
	text := c.out.String()
	for _, path := range []string{"/readyz", "/healthz", "/healthz/started", "/status", "/metrics", "/derpmap", "/"} {
		_, body := c.get(path)
		text += "\n" + path + "\n" + string(body)
	}
	return text
}

// TestControlThatEchoesSecrets registers at a control server that puts the auth key into its
// refusals, which are long and have control characters.
func TestControlThatEchoesSecrets(t *testing.T) {
	const headscale = "9c1185a5c5e9fc54612808977ee8f548b2258d31e9b0a7c1"
	for server, key := range map[string]string{
		"Tailscale": routertest.Key, "Headscale": "hskey-auth-0123456789ab-0123456789abcdef0123456789abcdef", "Headscale up to 0.27": headscale,
	} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			control, err := tailnettest.Start(tailnettest.Config{
				Policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{"tag:subnet-router": {netip.MustParsePrefix("10.0.0.0/8")}}},
				OnRegister: func(r *tailcfg.RegisterRequest) *tailcfg.RegisterResponse {
					if r.Auth == nil {
						return nil
					}
					return &tailcfg.RegisterResponse{Error: "\x1b[2Jkey " + r.Auth.AuthKey + " is\r\nnot valid: " + strings.Repeat(r.Auth.AuthKey+" ", 1000)}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { control.Close() })
			delete(s.Env, "ROUTER_AUTH_SECRET")
			s.Env["TS_AUTHKEY"] = key
			s.Env["ROUTER_CONTROL_URL"] = control.ControlURL()
			s.Env["ROUTER_LOG_LEVEL"] = "debug"
			c := s.start(t)
			why := c.awaitCode("key_refused")
			if strings.ContainsAny(why.Message, "\x1b\r\n") || len(why.Message) > 1000 {
				t.Errorf("the reason has %d bytes: %.300q", len(why.Message), why.Message)
			}
			all := c.everything()
			if strings.Contains(all, key) || strings.Contains(all, key[len(key)/2:]) {
				at := strings.Index(all, key[len(key)/2:])
				t.Errorf("the key is shown: %s", all[max(0, at-300):min(len(all), at+100)])
			}
			if longest := longestLine(c.out.String()); longest > 16<<10 {
				t.Errorf("a line of the log has %d bytes", longest)
			}
		})
	}
}

func longestLine(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, len(line))
	}
	return n
}

// TestCredentialsEndpointStaysHidden expects no output to contain the endpoint's path, which
// is enough to get the task role's credentials.
func TestCredentialsEndpointStaysHidden(t *testing.T) {
	const guid = "3f1c2d9e-8a67-4d8f-9d4c-0a1b2c3d4e5f"
	for name, answer := range map[string]http.HandlerFunc{
		"refuses": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"code":"NoIdFound","message":"no role for %s\u0007 at %s","HTTPErrorCode":400}`, r.URL.Path, guid)
		},
		"answers nonsense": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>"+r.URL.Path) },
		"hangs up": func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			endpoint := httptest.NewServer(answer)
			t.Cleanup(endpoint.Close)
			for _, variable := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
				delete(s.Env, variable)
			}
			s.Env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = endpoint.URL + "/v2/credentials/" + guid
			s.Env["AWS_EC2_METADATA_DISABLED"] = "true"
			s.Env["AWS_MAX_ATTEMPTS"] = "1"
			s.Env["ROUTER_LOG_LEVEL"] = "debug"
			c := s.start(t)
			c.awaitCode("credential_denied")
			if all := c.everything(); strings.Contains(all, guid) {
				at := strings.Index(all, guid)
				t.Errorf("the path is shown: %s", all[max(0, at-300):min(len(all), at+100)])
			}
			out, _ := s.command(t, nil, "doctor").CombinedOutput()
			plan, _ := s.command(t, nil, "plan").CombinedOutput()
			if strings.Contains(string(out)+string(plan), guid) {
				t.Errorf("doctor or plan shows the path:\n%s\n%s", out, plan)
			}
		})
	}
}
