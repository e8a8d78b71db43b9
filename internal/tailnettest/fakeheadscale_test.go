package tailnettest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fakeHeadscale stands in for the headscale program when the test binary runs
// under that name. It knows the commands and flags that Headscale documents and
// takes no other, reads its configuration as strictly, and answers in its JSON:
// that of its protobuf structs, or that of its API under the name of [apiForm].
// Nodes do not log in to it: a test posts them, as the protobuf form lists them,
// to /nodes of the unix socket.
func fakeHeadscale(args []string) int {
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "HEADSCALE_") {
			return fail("environment wins over the configuration: %s", e)
		}
	}
	global := flag.NewFlagSet("headscale", flag.ContinueOnError)
	config := global.String("config", "", "")
	output := global.String("output", "", "")
	force := global.Bool("force", false, "")
	if global.Parse(args) != nil {
		return 1
	}
	cfg, err := readFakeConfig(*config)
	if err != nil {
		return fail("Error loading config file %s: %v", *config, err)
	}
	if slices.Equal(global.Args(), []string{"serve"}) {
		return serveFake(cfg)
	}
	if *output != "json" && !*force {
		return fail("this command is not for scripts: %v", args)
	}
	var answer fakeAnswer
	if err := callFake(cfg.UnixSocket, "/run", fakeCall{global.Args(), *output}, &answer); err != nil {
		return fail("Could not connect: %v", err)
	}
	if filepath.Base(os.Args[0]) == apiForm {
		answer.Stdout = toAPIForm(answer.Stdout)
	}
	fmt.Print(answer.Stdout)
	fmt.Fprint(os.Stderr, answer.Stderr)
	return answer.Code
}

// The names of the fake, one for each form of its JSON.
const (
	protobufForm = "headscale"
	apiForm      = "headscale-api"
)

// toAPIForm translates an answer from the protobuf form. Other text stays as it is.
func toAPIForm(answer string) string {
	var v any
	dec := json.NewDecoder(strings.NewReader(answer))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return answer
	}
	b, err := json.MarshalIndent(apiValue("", v), "", "\t")
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}

func apiValue(name string, v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = apiValue("", v[i])
		}
	case json.Number:
		if name == "id" {
			return v.String()
		}
	case object:
		if seconds, ok := v["seconds"].(json.Number); ok {
			n, _ := seconds.Int64()
			if n <= 0 {
				return nil
			}
			return time.Unix(n, 0).UTC().Format(time.RFC3339)
		}
		if _, node := v["node_key"]; node {
			// Empty fields are there all the same.
			empty := object{
				"tags": []any{}, "approved_routes": []any{}, "available_routes": []any{}, "subnet_routes": []any{},
				"expiry": nil, "last_seen": nil, "pre_auth_key": nil, "user": nil, "online": false,
			}
			for name, value := range empty {
				if _, ok := v[name]; !ok {
					v[name] = value
				}
			}
		}
		out := object{}
		for name, value := range v {
			words := strings.Split(name, "_")
			for i := range words[1:] {
				words[i+1] = strings.ToUpper(words[i+1][:1]) + words[i+1][1:]
			}
			out[strings.Join(words, "")] = apiValue(name, value)
		}
		return out
	}
	return v
}

func fail(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	return 1
}

// fakeConfig has the keys of Headscale's config-example.yaml that we use.
type fakeConfig struct {
	ServerURL            string `json:"server_url"`
	ListenAddr           string `json:"listen_addr"`
	MetricsListenAddr    string `json:"metrics_listen_addr"`
	GRPCListenAddr       string `json:"grpc_listen_addr"`
	UnixSocket           string `json:"unix_socket"`
	UnixSocketPermission string `json:"unix_socket_permission"`
	Noise                struct {
		PrivateKeyPath string `json:"private_key_path"`
	} `json:"noise"`
	Database struct {
		Type   string `json:"type"`
		Sqlite struct {
			Path string `json:"path"`
		} `json:"sqlite"`
	} `json:"database"`
	Prefixes struct {
		V4         string `json:"v4"`
		V6         string `json:"v6"`
		Allocation string `json:"allocation"`
	} `json:"prefixes"`
	Policy struct {
		Mode string `json:"mode"`
		Path string `json:"path"`
	} `json:"policy"`
	DERP struct {
		Server struct {
			Enabled bool `json:"enabled"`
		} `json:"server"`
		URLs              []string `json:"urls"`
		Paths             []string `json:"paths"`
		AutoUpdateEnabled bool     `json:"auto_update_enabled"`
	} `json:"derp"`
	DNS struct {
		MagicDNS         bool   `json:"magic_dns"`
		BaseDomain       string `json:"base_domain"`
		OverrideLocalDNS bool   `json:"override_local_dns"`
	} `json:"dns"`
	CLI struct {
		Timeout string `json:"timeout"`
	} `json:"cli"`
	Logtail struct {
		Enabled bool `json:"enabled"`
	} `json:"logtail"`
	DisableCheckUpdates bool `json:"disable_check_updates"`
	Log                 struct {
		Level  string `json:"level"`
		Format string `json:"format"`
	} `json:"log"`
}

type fakePolicy struct {
	TagOwners map[string][]string `json:"tagOwners"`
	ACLs      []struct {
		Action string   `json:"action"`
		Src    []string `json:"src"`
		Dst    []string `json:"dst"`
	} `json:"acls"`
	AutoApprovers struct {
		Routes map[string][]string `json:"routes"`
	} `json:"autoApprovers"`
}

func readFakeConfig(path string) (cfg fakeConfig, err error) {
	err = readStrictly(path, &cfg)
	return cfg, err
}

func readStrictly(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

func checkFakePolicy(path string) error {
	var p fakePolicy
	if err := readStrictly(path, &p); err != nil {
		return err
	}
	for tag := range p.TagOwners {
		if !strings.HasPrefix(tag, "tag:") {
			return fmt.Errorf("tag must start with 'tag:': %q", tag)
		}
	}
	for _, approvers := range p.AutoApprovers.Routes {
		for _, tag := range approvers {
			if p.TagOwners[tag] == nil {
				return fmt.Errorf("tag %q is not defined", tag)
			}
		}
	}
	return nil
}

func serveFake(cfg fakeConfig) int {
	if err := checkFakePolicy(cfg.Policy.Path); err != nil {
		return fail("loading ACL policy: %v", err)
	}
	if _, err := os.Stat(cfg.DERP.Paths[0]); err != nil {
		return fail("loading DERP map: %v", err)
	}
	local, err := net.Listen("unix", cfg.UnixSocket)
	if err != nil {
		return fail("setting up gRPC socket: %v", err)
	}
	public, err := net.Listen("tcp", cfg.ListenAddr)
	if err != nil {
		return fail("binding to TCP address: %v", err)
	}
	s := new(fakeServer)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", s.serveRun)
	mux.HandleFunc("POST /nodes", s.serveJoin)
	mux.HandleFunc("POST /keys", s.serveKeys)
	go http.Serve(local, mux)
	go http.Serve(public, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"status":"pass"}`)
	}))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return 0
}

type (
	fakeCall struct {
		Args   []string
		Output string
	}
	fakeAnswer struct {
		Stdout, Stderr string
		Code           int
	}
	fakeNode = map[string]any
	fakeKey  struct {
		User      string // an ID
		Reusable  bool
		Ephemeral bool
		Tags      string
		Lifetime  string
	}
)

type fakeServer struct {
	mu    sync.Mutex
	nodes []fakeNode
	users []string
	keys  []fakeKey
}

func (s *fakeServer) serveJoin(w http.ResponseWriter, r *http.Request) {
	var n fakeNode
	json.NewDecoder(r.Body).Decode(&n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes = append(s.nodes, n)
	io.WriteString(w, "{}")
}

func (s *fakeServer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	json.NewEncoder(w).Encode(s.keys)
}

func (s *fakeServer) serveRun(w http.ResponseWriter, r *http.Request) {
	var call fakeCall
	json.NewDecoder(r.Body).Decode(&call)
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := s.run(call.Args)
	var answer fakeAnswer
	switch {
	case err == nil && call.Output == "json":
		b, _ := json.MarshalIndent(out, "", "\t")
		answer.Stdout = string(b) + "\n"
	case err == nil:
		answer.Stdout = "done\n"
	case call.Output == "json" && strings.HasPrefix(strings.Join(call.Args, " "), "nodes delete"):
		answer.Stdout = "null\n" // as up to 0.27
	case call.Output == "json":
		b, _ := json.MarshalIndent(map[string]string{"error": err.Error()}, "", "\t")
		answer.Stderr, answer.Code = string(b)+"\n", 1
	default:
		answer.Stderr, answer.Code = err.Error()+"\n", 1
	}
	json.NewEncoder(w).Encode(answer)
}

// run is one command of Headscale's.
func (s *fakeServer) run(args []string) (any, error) {
	if len(args) < 2 {
		return nil, fmt.Errorf("unknown command %v", args)
	}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	command := strings.Join(args[:2], " ")
	switch command {
	case "users create":
		s.users = append(s.users, args[2])
		return object{"id": len(s.users), "name": args[2], "created_at": object{"seconds": time.Now().Unix()}}, nil
	case "preauthkeys create":
		var k fakeKey
		flags.StringVar(&k.User, "user", "", "")
		flags.BoolVar(&k.Reusable, "reusable", false, "")
		flags.BoolVar(&k.Ephemeral, "ephemeral", false, "")
		flags.StringVar(&k.Tags, "tags", "", "")
		flags.StringVar(&k.Lifetime, "expiration", "1h", "")
		if err := flags.Parse(args[2:]); err != nil {
			return nil, err
		}
		s.keys = append(s.keys, k)
		return object{
			"user": object{"id": 1, "name": s.users[0]}, "id": len(s.keys), "key": fmt.Sprintf("hskey-auth-%012d-secret", len(s.keys)),
			"reusable": k.Reusable, "ephemeral": k.Ephemeral, "acl_tags": strings.Split(k.Tags, ","),
		}, nil
	case "nodes list":
		return s.nodes, flags.Parse(args[2:])
	}
	id := flags.Float64("identifier", 0, "") // as JSON has numbers
	routes := flags.String("routes", "", "")
	if err := flags.Parse(args[2:]); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.nodes, func(n fakeNode) bool { return n["id"] == *id })
	if i < 0 {
		return nil, errors.New("rpc error: code = NotFound desc = node not found")
	}
	n := s.nodes[i]
	switch command {
	case "nodes approve-routes":
		var approved, primary []any
		for route := range strings.SplitSeq(*routes, ",") {
			approved = append(approved, route)
			if available, _ := n["available_routes"].([]any); slices.Contains(available, any(route)) {
				primary = append(primary, route)
			}
		}
		n["approved_routes"], n["subnet_routes"] = approved, primary
	case "nodes expire":
		n["expiry"] = object{"seconds": time.Now().Unix(), "nanos": 1}
	case "nodes delete":
		if n["name"] == "stuck" {
			return nil, errors.New("rpc error: code = Internal desc = database is locked")
		}
		s.nodes = slices.Delete(s.nodes, i, i+1)
	default:
		return nil, fmt.Errorf("unknown command %q", command)
	}
	return n, nil
}

// callFake posts in to the fake behind a unix socket.
func callFake(socket, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	res, err := client.Post("http://headscale"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(res.Body).Decode(out)
}
