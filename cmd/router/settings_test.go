package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/router"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// settingProbe shows that a setting has an effect outside of package config: the result of
// observe differs between two values of the setting.
type settingProbe struct {
	values  func(t *testing.T, s *setting) (a, b string)
	prepare func(t *testing.T, s *setting) // nil is nothing
	observe func(t *testing.T, s *setting) string
}

func these(a, b string) func(*testing.T, *setting) (string, string) {
	return func(*testing.T, *setting) (string, string) { return a, b }
}

// settingProbes has one for each variable of package config's table.
var settingProbes = map[string]settingProbe{
	"ROUTER_AUTH_SECRET":            {values: these("router/auth-key", "router/other"), prepare: twoSecrets, observe: credentialOf},
	"ROUTER_AUTH_SECRET_KEY":        {values: these("mine", "yours"), prepare: secretWithTwoKeys, observe: credentialOf},
	"TS_AUTHKEY":                    {values: these("tskey-auth-k1-x", "tskey-client-k2-x"), prepare: withoutSecret, observe: credentialOf},
	"TS_CLIENT_ID":                  {values: these("kONE", "kTWO"), prepare: federated, observe: keyRequests},
	"TS_AUDIENCE":                   {values: these("api.tailscale.com/one", "api.tailscale.com/two"), prepare: federated, observe: keyRequests},
	"ROUTER_TAGS":                   {values: these("tag:one", "tag:two"), prepare: literalClient, observe: keyRequests},
	"ROUTER_API_URL":                {values: twoAPIs, prepare: literalClient, observe: credentialOf},
	"ROUTER_HOSTNAME":               {values: these("one", "two"), observe: nodeName},
	"ROUTER_CONTROL_URL":            {values: twoControls, observe: becomesReady},
	"ROUTER_ROUTES":                 {values: these("vpc", "10.1.0.0/16"), observe: plannedRoutes},
	"ROUTER_EXCLUDE_ROUTES":         {values: these("10.8.0.0/16", "10.0.0.0/16"), observe: plannedRoutes},
	"ROUTER_SITE_ID":                {values: these("7", "8"), observe: plannedRoutes},
	"ROUTER_DNS_ZONES":              {values: these("a.example.com", "b.example.com"), observe: plannedZones},
	"ROUTER_DNS_REGISTER":           {values: these("on", "off"), prepare: oneZone, observe: plannedRegistration},
	"ROUTER_REFRESH":                {values: these("1s", "24h"), observe: looksAgain},
	"ROUTER_STATE":                  {values: twoFolders, observe: folders},
	"ROUTER_STATE_IMPORT":           {values: twoStateFolders, prepare: withTable, observe: importedFrom},
	"ROUTER_MODE":                   {values: these("userspace", "kernel"), observe: engine},
	"ROUTER_UDP_PORT":               {values: twoUDPPorts, observe: portsInUse},
	"ROUTER_LISTEN":                 {values: twoAddresses, observe: answering("/healthz")},
	"ROUTER_STATUS_PAGE":            {values: these("on", "off"), observe: page},
	"ROUTER_TAILNET_STATUS":         {values: these("on", "off"), observe: plannedGrants},
	"ROUTER_DRAIN_TIMEOUT":          {values: these("7s", "9s"), observe: drainTimeout},
	"ROUTER_BOOT_TIMEOUT":           {values: these("1s", "1h"), observe: bootOverdue},
	"ROUTER_PROBE":                  {values: these("10.0.3.4:5432", "10.0.3.5:5432"), observe: probedTarget},
	"ROUTER_SERVE":                  {values: these("443=10.0.3.4:80", "444=10.0.3.4:80"), observe: plannedGrants},
	"ROUTER_ACCESS":                 {values: these("off", "grants"), observe: plannedAccess},
	"ROUTER_ACCESS_CUT":             {values: these("on", "off"), prepare: withAccess, observe: accessCut},
	"ROUTER_PROXY_PROTOCOL":         {values: these("10.0.3.0/24:443", "10.0.4.0/24:443"), observe: proxiedTargets},
	"ROUTER_FLOW_LOG":               {values: these("on", "off"), observe: metrics("router_flow_log_dropped_total")},
	"ROUTER_EMF":                    {values: these("on", "off"), observe: embeddedMetrics},
	"ROUTER_MAX_FLOWS":              {values: these("100", "200"), observe: metrics("router_flows_limit")},
	"ROUTER_MAX_FLOWS_PER_PEER":     {values: these("10", "20"), observe: metrics("router_flows_limit_per_peer")},
	"ROUTER_KEEPALIVE":              {values: these("30s", "1h"), observe: keepAlive},
	"ROUTER_TARGET_KEEPALIVE":       {values: these("30s", "1h"), observe: dataPath("TargetKeepAlive")},
	"ROUTER_CONGESTION":             {values: these("bbr", "cubic"), observe: dataPath("Congestion")},
	"ROUTER_EXIT_NODE":              {values: these("on", "off"), observe: engine},
	"ROUTER_APP_CONNECTOR":          {values: these("on", "off"), observe: engine},
	"ROUTER_PEER_RELAY":             {values: these("40000", "40001"), observe: engine},
	"ROUTER_PEER_RELAY_ENDPOINTS":   {values: these("203.0.113.7:40000", "203.0.113.8:40000"), prepare: withPeerRelay, observe: relayEndpoints},
	"ROUTER_DNS":                    {values: these("on", "off"), observe: metrics("router_dns_cache_entries")},
	"ROUTER_DNS_REBIND_GUARD":       {values: these("on", "off"), prepare: withDNS, observe: rebindGuard},
	"ROUTER_SOCKS5_LISTEN":          {values: twoAddresses, observe: greeting("\x05\x01\x00", "\x05\x00")},
	"ROUTER_HTTP_PROXY_LISTEN":      {values: twoAddresses, observe: greeting("CONNECT none:1 HTTP/1.0\r\n\r\n", "HTTP/1.0 ")},
	"ROUTER_EGRESS":                 {values: twoForwardedPorts, observe: greeting("", "")},
	"ROUTER_DEBUG_LISTEN":           {values: twoAddresses, observe: answering("/debug/pprof/")},
	"ROUTER_LOG_LEVEL":              {values: these("debug", "info"), observe: debugLines},
	"ROUTER_LOG_FORMAT":             {values: these("json", "text"), observe: firstByte},
	"ROUTER_SOCKET":                 {values: twoSockets, observe: sockets},
	"TS_EXTRA_ARGS":                 {values: these("--accept-routes", "--stateful-filtering"), observe: engine},
	"ECS_CONTAINER_METADATA_URI_V4": {values: twoTasks, observe: plannedRoutes},
}

// TestEverySettingHasAnEffect runs a probe for each setting in package config's table. A
// setting that no code reads has no effect that a probe could see.
func TestEverySettingHasAnEffect(t *testing.T) {
	for name := range settingProbes {
		if !slices.Contains(config.Names(), name) {
			t.Errorf("there is no setting %s", name)
		}
	}
	for _, name := range config.Names() {
		p, ok := settingProbes[name]
		if !ok {
			t.Errorf("no probe shows the effect of %s", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newSetting(t)
			if p.prepare != nil {
				p.prepare(t, s)
			}
			awstest.Setenv(t, s.AWS.Env()) // for probes in this process
			a, b := p.values(t, s)
			see := func(value string) (seen string) {
				s.Env[name] = value
				t.Run(value, func(t *testing.T) { seen = p.observe(t, s) })
				return seen
			}
			atA, atB := see(a), see(b)
			if atA == atB {
				t.Errorf("%s and %s have the same effect: %s", a, b, atA)
			}
			if atA == "" && atB == "" {
				t.Error("the probe saw nothing")
			}
		})
	}
}

// build creates the router without running it.
func (s *setting) build(t *testing.T) *router.Router {
	t.Helper()
	r, err := router.New(s.Load(t), options(nil), slog.New(slog.DiscardHandler), eventlog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// Preparations.

func withoutSecret(_ *testing.T, s *setting) { delete(s.Env, "ROUTER_AUTH_SECRET") }

func twoSecrets(_ *testing.T, s *setting) {
	s.AWS.Update(func(w *awstest.World) {
		w.Secrets = map[string]awstest.Secret{"router/auth-key": {Value: "tskey-auth-one"}, "router/other": {Value: "tskey-auth-two"}}
	})
}

func secretWithTwoKeys(_ *testing.T, s *setting) {
	s.store(awstest.Secret{Value: `{"mine":"tskey-auth-one","yours":"tskey-auth-two"}`})
}

func federated(t *testing.T, s *setting) {
	withoutSecret(t, s)
	s.Env["TS_CLIENT_ID"], s.Env["TS_AUDIENCE"] = "kONE", "api.tailscale.com/one"
	s.Env["ROUTER_API_URL"] = newKeyAPI(t, "tskey-auth-made").URL
}

func literalClient(t *testing.T, s *setting) {
	withoutSecret(t, s)
	s.Env["TS_AUTHKEY"] = "tskey-client-k2-x"
	s.Env["ROUTER_API_URL"] = newKeyAPI(t, "tskey-auth-made").URL
}

// keyAPI is an API that mints keys for any client, and records the requests.
type keyAPI struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

var keyAPIs sync.Map // by URL

func newKeyAPI(t *testing.T, key string) *keyAPI {
	a := &keyAPI{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if strings.Contains(r.URL.Path, "/oauth/") {
			a.asked = append(a.asked, r.FormValue("client_id"))
			if part := strings.Split(r.FormValue("jwt"), "."); len(part) == 3 {
				claims, _ := base64.RawURLEncoding.DecodeString(part[1])
				var c struct{ Aud string }
				json.Unmarshal(claims, &c)
				a.asked = append(a.asked, c.Aud)
			}
			io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
			return
		}
		body, _ := io.ReadAll(r.Body)
		a.asked = append(a.asked, string(body))
		fmt.Fprintf(w, `{"id":"k","key":%q}`, key)
	}))
	t.Cleanup(a.Close)
	keyAPIs.Store(a.URL, a)
	return a
}

// Values that need a server, file or port.

func twoAPIs(t *testing.T, _ *setting) (a, b string) {
	return newKeyAPI(t, "tskey-auth-one").URL, newKeyAPI(t, "tskey-auth-two").URL
}

// twoControls returns a control server that accepts the key, and one that does not know
// it.
func twoControls(t *testing.T, s *setting) (a, b string) {
	other, err := tailnettest.Start(tailnettest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return s.Control.ControlURL(), other.ControlURL()
}

func twoTasks(t *testing.T, s *setting) (a, b string) {
	task := routertest.Task()
	task.Family = "other"
	other, err := awstest.NewMetadata("", task)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return s.Metadata.URI(), other.URI()
}

// candidates returns the values whose traces an observer looks for.
func (s *setting) candidates(a, b string) (string, string) {
	s.Env["X_CANDIDATES"] = a + " " + b
	return a, b
}

func twoFolders(t *testing.T, s *setting) (a, b string) {
	return s.candidates(t.TempDir(), t.TempDir())
}

func twoStateFolders(t *testing.T, s *setting) (a, b string) {
	a, b = t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := os.WriteFile(filepath.Join(dir, "tailscaled.state"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s.candidates(a, b)
}

func withDNS(_ *testing.T, s *setting) { s.Env["ROUTER_DNS"] = "on" }

// withTable has the router keep its identity in a table.
func withTable(_ *testing.T, s *setting) {
	s.Env["ROUTER_STATE"] = "dynamodb:routers/edge?slots=2"
	s.AWS.Update(func(w *awstest.World) {
		w.Tables = map[string]awstest.Table{"routers": {Partition: "service", Sort: "slot", SortType: "N"}}
	})
}

func twoForwardedPorts(t *testing.T, s *setting) (a, b string) {
	a, b = twoAddresses(t, s)
	return a + "=none:1", b + "=none:1"
}

func twoAddresses(t *testing.T, s *setting) (a, b string) {
	return s.candidates(routertest.FreeAddress(t), routertest.FreeAddress(t))
}

func twoSockets(t *testing.T, s *setting) (a, b string) {
	dir := t.TempDir()
	return s.candidates(filepath.Join(dir, "a"), filepath.Join(dir, "b"))
}

func twoUDPPorts(t *testing.T, s *setting) (a, b string) {
	port := func() string {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, port, _ := net.SplitHostPort(c.LocalAddr().String())
		return port
	}
	return s.candidates(port(), port())
}

// traces returns those of the candidates that left a trace.
func (s *setting) traces(left func(candidate string) bool) string {
	var found []string
	for c := range strings.FieldsSeq(s.Env["X_CANDIDATES"]) {
		if left(c) {
			found = append(found, c)
		}
	}
	return strings.Join(found, " ")
}

// Observers in this process.

// lookUps returns the look-ups of a start.
func (s *setting) lookUps(t *testing.T) *bootstrap.Bootstrap {
	return bootstrap.New(router.LookUpConfig(s.Load(t), slog.New(slog.DiscardHandler)))
}

func credentialOf(t *testing.T, s *setting) string {
	boot := s.lookUps(t)
	key, _, err := boot.Credential(t.Context())
	if err != nil {
		return err.Error()
	}
	return boot.CredentialChoice().What + " " + key.Reveal()
}

func keyRequests(t *testing.T, s *setting) string {
	if _, _, err := s.lookUps(t).Credential(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, _ := keyAPIs.Load(s.Env["ROUTER_API_URL"])
	api := v.(*keyAPI)
	api.mu.Lock()
	defer api.mu.Unlock()
	asked := strings.Join(api.asked, " ")
	api.asked = nil
	return asked
}

func plannedRoutes(t *testing.T, s *setting) string {
	p, err := router.MakePlan(t.Context(), s.Load(t))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%v %v", p.Place, p.Advertise)
}

func plannedZones(t *testing.T, s *setting) string {
	p, err := router.MakePlan(t.Context(), s.Load(t))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(p.DNS)
}

func oneZone(_ *testing.T, s *setting) { s.Env["ROUTER_DNS_ZONES"] = "a.example.com" }

func plannedRegistration(t *testing.T, s *setting) string {
	p, err := router.MakePlan(t.Context(), s.Load(t))
	if err != nil {
		t.Fatal(err)
	}
	if p.Register == nil {
		return "none"
	}
	return fmt.Sprint(p.Register.Nameserver, len(p.Register.Change))
}

func plannedGrants(t *testing.T, s *setting) string {
	p, err := router.MakePlan(t.Context(), s.Load(t))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(p.StatusGrants, p.ServeGrants)
}

func withPeerRelay(_ *testing.T, s *setting) { s.Env["ROUTER_PEER_RELAY"] = "40000" }

func relayEndpoints(t *testing.T, s *setting) string {
	return fmt.Sprint(reflect.ValueOf(s.build(t)).Elem().FieldByName("node").Elem().FieldByName("cfg").FieldByName("PeerRelayEndpoints"))
}

func withAccess(_ *testing.T, s *setting) { s.Env["ROUTER_ACCESS"] = "grants" }

func plannedAccess(t *testing.T, s *setting) string {
	p, err := router.MakePlan(t.Context(), s.Load(t))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(p.AccessGrants)
}

// accessCut returns whether open flows may end.
func accessCut(t *testing.T, s *setting) string {
	return fmt.Sprint(reflect.ValueOf(s.build(t)).Elem().FieldByName("access").Elem().FieldByName("cut").Bool())
}

// proxiedTargets returns whether a target in 10.0.3.0/24 gets a header.
func proxiedTargets(t *testing.T, s *setting) string {
	client, target := netip.MustParseAddrPort("100.64.0.2:1000"), netip.MustParseAddrPort("10.0.3.4:443")
	return fmt.Sprint(len(s.build(t).ProxyHeader(client, target, target)) > 0)
}

// engine returns the configuration of the engine, without functions.
func engine(t *testing.T, s *setting) string {
	c := reflect.ValueOf(s.build(t)).Elem().FieldByName("node").Elem().FieldByName("cfg")
	var out []string
	for i := range c.NumField() {
		if k := c.Field(i).Kind(); k == reflect.Bool || k == reflect.Int || k == reflect.String || k == reflect.Uint16 {
			out = append(out, fmt.Sprintf("%s=%v", c.Type().Field(i).Name, c.Field(i)))
		}
	}
	return strings.Join(out, " ")
}

func metrics(name string) func(*testing.T, *setting) string {
	return func(t *testing.T, s *setting) string {
		families, err := s.build(t).Metrics().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				return f.String()
			}
		}
		return ""
	}
}

// keepAlive returns the keep-alive interval of the data path.
// dataPath returns an observer of a field of the data path's configuration, a number.
func dataPath(field string) func(*testing.T, *setting) string {
	return func(t *testing.T, s *setting) string {
		return fmt.Sprint(reflect.ValueOf(s.build(t)).Elem().FieldByName("forward").Elem().FieldByName("cfg").FieldByName(field).Int())
	}
}

// keepAlive returns the router's own setting: the data path has a function of it.
func keepAlive(t *testing.T, s *setting) string {
	v := reflect.ValueOf(s.build(t)).Elem().FieldByName("cfg").FieldByName("KeepAlive").FieldByName("Default")
	return time.Duration(v.Int()).String()
}

// rebindGuard returns whether the DNS server has its guard.
func rebindGuard(t *testing.T, s *setting) string {
	v := reflect.ValueOf(s.build(t)).Elem().FieldByName("resolver").Elem().FieldByName("server").Elem().FieldByName("cfg").FieldByName("RebindGuard")
	return fmt.Sprint(v.Bool())
}

// Observers of the whole program.

func becomesReady(t *testing.T, s *setting) string {
	c := s.start(t)
	state := ""
	c.await("an end of joining", func(r ops.Readiness) bool {
		state = fmt.Sprint(r.Ready)
		return r.Ready || slices.ContainsFunc(r.Reasons, func(why ops.Reason) bool { return why.Code == "key_refused" })
	})
	return state
}

func nodeName(t *testing.T, s *setting) string {
	s.start(t).awaitReady()
	nodes, err := s.Control.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range nodes {
		if n.Online {
			names = append(names, n.Hostname)
		}
	}
	return strings.Join(names, " ")
}

// absenceWait is how long happens waits for a condition that must not come true.
const absenceWait = 3 * time.Second

// happens reports whether cond comes true: it waits without a bound if it must, else for
// absenceWait.
func happens(t *testing.T, must bool, what string, cond func() bool) bool {
	t.Helper()
	check := func() error {
		if !cond() {
			return errors.New("not yet")
		}
		return nil
	}
	if must {
		testwait.Until(t, what, check)
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), absenceWait)
	defer cancel()
	return testwait.For(ctx, what, func(context.Context) error { return check() }) == nil
}

func looksAgain(t *testing.T, s *setting) string {
	s.start(t).awaitReady()
	count := func() (n int) {
		for _, call := range s.AWS.Calls() {
			if call == "ec2:DescribeVpcs" {
				n++
			}
		}
		return n
	}
	first := count()
	again := happens(t, s.Env["ROUTER_REFRESH"] == "1s", "another look-up of routes", func() bool { return count() > first })
	return fmt.Sprintf("looks again: %v", again)
}

func probedTarget(t *testing.T, s *setting) (target string) {
	c := s.start(t)
	c.await("a probe", func(ops.Readiness) bool {
		_, body := c.get("/metrics")
		for line := range strings.Lines(string(body)) {
			if strings.HasPrefix(line, "router_probe_success{") {
				_, target, _ = strings.Cut(strings.TrimSpace(line), "{")
				return true
			}
		}
		return false
	})
	target, _, _ = strings.Cut(target, "}")
	return target
}

func bootOverdue(t *testing.T, s *setting) string {
	s.store(awstest.Secret{Value: " "}) // so that it does not become ready
	c := s.start(t)
	overdue := happens(t, s.Env["ROUTER_BOOT_TIMEOUT"] == "1s", "the boot timeout", func() bool {
		code, _ := c.get("/metrics")
		return code == http.StatusOK && c.metric("router_boot_overdue") == 1
	})
	return fmt.Sprintf("overdue: %v", overdue)
}

func folders(t *testing.T, s *setting) string {
	s.start(t).awaitReady()
	return s.traces(func(dir string) bool {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			os.RemoveAll(filepath.Join(dir, f.Name()))
		}
		return len(files) > 0
	})
}

func importedFrom(t *testing.T, s *setting) string {
	c := s.start(t)
	c.awaitReady()
	c.stop()
	for line := range strings.SplitSeq(c.out.String(), "\n") {
		if strings.Contains(line, `"msg":"identity opened"`) {
			_, from, _ := strings.Cut(line, `"imported":`)
			return from
		}
	}
	return ""
}

func sockets(t *testing.T, s *setting) string {
	s.start(t).awaitReady()
	return s.traces(func(path string) bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func portsInUse(t *testing.T, s *setting) string {
	s.start(t).awaitReady()
	return s.traces(func(port string) bool {
		c, err := net.ListenPacket("udp4", ":"+port)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

// answering returns which of two addresses answers a path.
func answering(path string) func(*testing.T, *setting) string {
	return func(t *testing.T, s *setting) string {
		s.start(t).awaitReady()
		return s.traces(func(address string) bool {
			resp, err := http.Get("http://" + address + path)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
}

// greeting looks for the listener that answers a greeting.
func greeting(send, want string) func(*testing.T, *setting) string {
	return func(t *testing.T, s *setting) string {
		s.start(t).awaitReady()
		return s.traces(func(address string) bool {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return false
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(testwait.Limit()))
			io.WriteString(conn, send)
			got := make([]byte, len(want))
			_, err = io.ReadFull(conn, got)
			return err == nil && string(got) == want
		})
	}
}

func embeddedMetrics(t *testing.T, s *setting) string {
	c := s.start(t)
	c.awaitReady()
	c.stop()
	return fmt.Sprintf("embedded metric lines: %v", strings.Contains(c.out.String(), `"_aws"`))
}

func page(t *testing.T, s *setting) string {
	c := s.start(t)
	c.awaitReady()
	code, _ := c.get("/")
	return fmt.Sprint("HTTP ", code)
}

func drainTimeout(t *testing.T, s *setting) string {
	c := s.start(t)
	c.awaitReady()
	c.stop()
	for line := range strings.Lines(c.out.String()) {
		if strings.Contains(line, `"msg":"draining"`) {
			_, timeout, _ := strings.Cut(line, `"timeout":`)
			return timeout
		}
	}
	return ""
}

func debugLines(t *testing.T, s *setting) string {
	c := s.start(t)
	c.awaitReady()
	c.stop()
	return fmt.Sprintf("debug lines: %v", strings.Contains(c.out.String(), `"level":"DEBUG"`))
}

func firstByte(t *testing.T, s *setting) string {
	c := s.start(t)
	c.awaitReady()
	return c.out.String()[:1]
}
