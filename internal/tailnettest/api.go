package tailnettest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// API configures the clients that may use Tailscale's API. A [Tailnet] serves a part of that
// API under its ControlURL: tokens for OAuth clients and federated identities, keys that can
// register nodes, nodes with their routes, the removal of nodes, and split DNS. Its refusals have the texts that users report
// from the real API.
type API struct {
	Clients    []OAuthClient
	Identities []FederatedIdentity
}

// OAuthClient is an OAuth client.
type OAuthClient struct {
	ID, Secret string
	Tags       []string // the tags that its keys must have
	NoKeys     bool     // it lacks the scope auth_keys
	Devices    bool     // it has the scope devices:core
	DNS        bool     // it has the scope dns
	DNSRead    bool     // it has the scope dns:read

	DevicesRead bool // it has the scope devices:core:read
	RoutesRead  bool // it has the scope devices:routes:read
}

// FederatedIdentity holds the claims that an identity token must have, and the rights that
// it gives.
type FederatedIdentity struct {
	ClientID                  string
	Issuer, Subject, Audience string // Subject may end with *
	Tags                      []string
	NoKeys, Devices           bool // as in OAuthClient
	DNS, DNSRead              bool
}

// APIFailure replaces the correct response of the API. With neither Status nor Cut, the
// correct response is sent after Delay.
type APIFailure struct {
	Status     int
	Message    string // the message in the body, in the API's words
	Body       string // replaces the JSON body with Message
	RetryAfter string // the header
	Delay      time.Duration
	Cut        bool // close the connection in the middle of the correct response
	Times      int  // the number of calls that fail; 0: all
}

// The paths of the API, as [Tailnet.FailAPI] and [Tailnet.APICalls] name them.
const (
	APIToken         = "/api/v2/oauth/token"
	APITokenExchange = "/api/v2/oauth/token-exchange"
	APIKeys          = "/api/v2/tailnet/-/keys"
	APIDevice        = "/api/v2/device/"       // of all devices
	APIDeviceRoutes  = "/api/v2/device/routes" // of all devices
	APIDevices       = "/api/v2/tailnet/-/devices"
	APISplitDNS      = "/api/v2/tailnet/-/dns/split-dns"
	APIDNS           = "/api/v2/tailnet/-/dns/configuration"
)

// Register is the path of nodes' registrations for [Tailnet.FailAPI] and
// [Tailnet.APICalls]. They are part of the control protocol, not of the API. Of an
// APIFailure only Status, Message and RetryAfter apply to them.
const Register = "/machine/register"

// api is the state of the API. Tailnet.mu covers it.
type api struct {
	API
	verify   func(jwt string) bool
	tokens   map[string]apiToken
	failures map[string]APIFailure
	calls    []string
	minted   int
	splitDNS map[string][]Nameserver
	bareDNS  bool // see HideDNSOptions
}

type apiToken struct {
	client  string
	expires time.Time
}

// tokenLife is the lifetime of the API's access tokens.
const tokenLife = time.Hour

// SetAPI replaces the clients and identities. Tokens of removed ones become invalid; their
// keys stay valid.
func (t *Tailnet) SetAPI(_ context.Context, a API) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.api.API = a
	return nil
}

// VerifyIdentity has verify check the signature of identity tokens. By default the API
// does not check it.
func (t *Tailnet) VerifyIdentity(verify func(jwt string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.api.verify = verify
}

// FailAPI makes calls of a path fail. The zero APIFailure makes them succeed again.
func (t *Tailnet) FailAPI(path string, f APIFailure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.api.failures == nil {
		t.api.failures = map[string]APIFailure{}
	}
	t.api.failures[path] = f
	if f == (APIFailure{}) {
		delete(t.api.failures, path)
	}
}

// APICalls returns the paths of all calls so far.
func (t *Tailnet) APICalls() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.api.calls)
}

// Minted returns the number of auth keys that the API has created.
func (t *Tailnet) Minted() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.api.minted
}

// APIHandler returns the handler of the API, for use without a network, as in simulated
// time.
func (t *Tailnet) APIHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+APIToken, t.serveAPI(t.clientToken))
	mux.HandleFunc("POST "+APITokenExchange, t.serveAPI(t.identityToken))
	mux.HandleFunc("POST "+APIKeys, t.serveAPI(t.createKey))
	mux.HandleFunc("DELETE "+APIDevice+"{id}", t.serveAPI(t.deleteDevice))
	mux.HandleFunc("GET "+APIDevice+"{id}/routes", t.serveAPI(t.getDeviceRoutes))
	mux.HandleFunc("GET "+APIDevices, t.serveAPI(t.listDevices))
	mux.HandleFunc("GET "+APISplitDNS, t.serveAPI(t.getSplitDNS))
	mux.HandleFunc("GET "+APIDNS, t.serveAPI(t.getDNS))
	mux.HandleFunc("PATCH "+APISplitDNS, t.serveAPI(t.patchSplitDNS))
	return mux
}

// refusal is a response of the API with a status other than 200.
type refusal struct {
	status  int
	message string
}

func (r refusal) Error() string { return r.message }

// serveAPI returns a handler that counts calls, fails as [Tailnet.FailAPI] asks for, and
// otherwise sends the result of answer, which is called with t.mu held.
func (t *Tailnet) serveAPI(answer func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		switch {
		case strings.HasPrefix(path, APIDevice) && strings.HasSuffix(path, "/routes"):
			path = APIDeviceRoutes
		case strings.HasPrefix(path, APIDevice):
			path = APIDevice
		}
		fail := t.nextAPI(path)
		// The server notices that a client has gone only after reading the body.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-time.After(fail.Delay):
		case <-r.Context().Done():
			return
		}
		if fail.RetryAfter != "" {
			w.Header().Set("Retry-After", fail.RetryAfter)
		}
		if fail.Status != 0 {
			refuse(w, fail.Status, fail.Message, fail.Body)
			return
		}
		if err := r.ParseForm(); err != nil {
			refuse(w, http.StatusBadRequest, err.Error(), "")
			return
		}
		t.mu.Lock()
		out, err := answer(r)
		t.mu.Unlock()
		if no, ok := errors.AsType[refusal](err); ok {
			refuse(w, no.status, no.message, "")
			return
		}
		if body, err = json.Marshal(out); err != nil {
			panic(err) // impossible: strings and numbers
		}
		w.Header().Set("Content-Type", "application/json")
		if fail.Cut {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.Write(body[:len(body)/2])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	}
}

func (t *Tailnet) nextAPI(path string) APIFailure {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.api.calls = append(t.api.calls, path)
	fail, found := t.api.failures[path]
	if found && fail.Times > 0 {
		if fail.Times--; fail.Times == 0 {
			delete(t.api.failures, path)
		} else {
			t.api.failures[path] = fail
		}
	}
	return fail
}

func refuse(w http.ResponseWriter, status int, message, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != "" {
		fmt.Fprint(w, body)
		return
	}
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}

func (t *Tailnet) clientToken(r *http.Request) (any, error) {
	i := slices.IndexFunc(t.api.Clients, func(c OAuthClient) bool { return c.Secret == r.FormValue("client_secret") })
	if i < 0 || r.FormValue("client_id") == "" {
		return nil, refusal{http.StatusUnauthorized, "API token invalid"}
	}
	return t.grantLocked(t.api.Clients[i].ID), nil
}

func (t *Tailnet) identityToken(r *http.Request) (any, error) {
	jwt := r.FormValue("jwt")
	var claims struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		Expires  int64  `json:"exp"`
	}
	part := strings.Split(jwt, ".")
	if len(part) != 3 {
		return nil, refusal{http.StatusBadRequest, fmt.Sprintf("invalid JWT format: expected 3 parts separated by '.', got %d", len(part))}
	}
	b, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil || json.Unmarshal(b, &claims) != nil || t.api.verify != nil && !t.api.verify(jwt) {
		return nil, refusal{http.StatusForbidden, "Unauthorized"}
	}
	if time.Now().Unix() >= claims.Expires {
		return nil, refusal{http.StatusForbidden, "token is expired"}
	}
	for _, id := range t.api.Identities {
		prefix, wild := strings.CutSuffix(id.Subject, "*")
		subject := claims.Subject == id.Subject || wild && strings.HasPrefix(claims.Subject, prefix)
		if id.ClientID == r.FormValue("client_id") && subject && claims.Issuer == id.Issuer && claims.Audience == id.Audience {
			return t.grantLocked(id.ClientID), nil
		}
	}
	return nil, refusal{http.StatusForbidden, "Unauthorized"}
}

func (t *Tailnet) grantLocked(client string) any {
	value := "tskey-api-" + strings.TrimPrefix(newKeyValue().Reveal(), "tskey-auth-")
	if t.api.tokens == nil {
		t.api.tokens = map[string]apiToken{}
	}
	t.api.tokens[value] = apiToken{client, time.Now().Add(tokenLife)}
	return map[string]any{"access_token": value, "token_type": "Bearer", "expires_in": int(tokenLife / time.Second), "scope": "auth_keys"}
}

func (t *Tailnet) createKey(r *http.Request) (any, error) {
	client, err := t.callerLocked(r)
	if err != nil {
		return nil, err
	}
	if client.NoKeys {
		return nil, errScope
	}
	var in struct {
		ExpirySeconds int `json:"expirySeconds"`
		Capabilities  struct {
			Devices struct {
				Create struct {
					Reusable, Ephemeral, Preauthorized bool
					Tags                               []string
				}
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, refusal{http.StatusBadRequest, "invalid request body"}
	}
	create := in.Capabilities.Devices.Create
	if !sameTags(create.Tags, client.Tags) {
		return nil, refusal{http.StatusBadRequest, fmt.Sprintf("requested tags %v are invalid or not permitted", create.Tags)}
	}
	if in.ExpirySeconds == 0 {
		in.ExpirySeconds = int(90 * 24 * time.Hour / time.Second)
	}
	expires := time.Now().Add(time.Duration(in.ExpirySeconds) * time.Second)
	value := t.addKeyLocked(Key{
		Reusable: create.Reusable, Ephemeral: create.Ephemeral, Preauthorized: create.Preauthorized,
		Tags: create.Tags, Expiry: expires,
	})
	t.api.minted++
	return map[string]any{"id": keyID(value.Reveal()), "key": value.Reveal(), "created": time.Now().UTC(), "expires": expires.UTC()}, nil
}

// deleteDevice removes a node, given by its stable ID or its ID.
func (t *Tailnet) deleteDevice(r *http.Request) (any, error) {
	client, err := t.callerLocked(r)
	if err != nil {
		return nil, err
	}
	if !client.Devices {
		return nil, errScope
	}
	id := r.PathValue("id")
	for _, n := range t.nodes {
		if id != strconv.FormatInt(int64(n.id), 10) && id != string(t.base.Node(n.key).StableID) {
			continue
		}
		t.removeLocked(n)
		t.updateLocked()
		return nil, nil
	}
	return nil, refusal{http.StatusNotFound, "no manageable device matching request found"}
}

var errScope = refusal{http.StatusForbidden, "calling actor does not have enough permissions to perform this function"}

// callerLocked returns the client that a request's token belongs to. A federated identity is
// a client without secret.
func (t *Tailnet) callerLocked(r *http.Request) (OAuthClient, error) {
	token, ok := t.api.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if ok && time.Now().Before(token.expires) {
		for _, c := range t.api.Clients {
			if c.ID == token.client {
				return c, nil
			}
		}
		for _, id := range t.api.Identities {
			if id.ClientID == token.client {
				return OAuthClient{ID: id.ClientID, Tags: id.Tags, NoKeys: id.NoKeys, Devices: id.Devices, DNS: id.DNS, DNSRead: id.DNSRead}, nil
			}
		}
	}
	return OAuthClient{}, refusal{http.StatusUnauthorized, "API token invalid"}
}

func sameTags(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return len(a) > 0 && slices.Equal(a, b)
}

// NewOAuthClient returns a client with a random secret in Tailscale's form.
func NewOAuthClient(tags ...string) OAuthClient {
	value := newKeyValue().Reveal()
	return OAuthClient{ID: keyID(value), Secret: strings.Replace(value, "tskey-auth-", "tskey-client-", 1), Tags: tags}
}
