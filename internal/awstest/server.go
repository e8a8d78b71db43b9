package awstest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Server is an AWS endpoint that answers from a [World].
type Server struct {
	*listener
	failures

	mu    sync.Mutex // covers the fields below
	world World
	calls []string
	items map[string]map[string]Item // by table and key; see itemKey
}

// NewServer starts a server on addr; "" means a free port on loopback.
func NewServer(addr string, w World) (*Server, error) {
	s := &Server{world: w}
	var err error
	if s.listener, err = listen(addr, s); err != nil {
		return nil, fmt.Errorf("starting the AWS endpoint: %w", err)
	}
	return s, nil
}

// Env returns the environment that points the AWS SDK to this server.
func (s *Server) Env() map[string]string { return env(s.url, s.snapshot().region()) }

// Update changes the world, for instance to rotate a secret or delete a VPC. change must
// replace maps and slices, not write to them: a request may be reading the old ones. Only the
// tasks and services of clusters are copies that change may write to.
func (s *Server) Update(change func(*World)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world.Clusters = maps.Clone(s.world.Clusters)
	for name, c := range s.world.Clusters {
		s.world.Clusters[name] = Cluster{maps.Clone(c.Tasks), maps.Clone(c.Services)}
	}
	change(&s.world)
}

// Calls returns the actions called so far, such as "ec2:DescribeVpcs".
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *Server) snapshot() World {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world
}

func (s *Server) record(action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, action)
}

// ServeHTTP answers calls to all services that the router uses. They share one address,
// as with AWS_ENDPOINT_URL.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		s.serveJSON(w, r, target)
		return
	}
	if r.URL.Path == hostedZonesByVPC {
		s.serveHostedZones(w, r)
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, hostedZonePath); ok {
		s.serveHostedZone(w, r, id)
		return
	}
	if r.URL.Path == profileAssociations || strings.HasPrefix(r.URL.Path, profileResources) {
		s.serveProfiles(w, r)
		return
	}
	if err := r.ParseForm(); err == nil && r.Form.Get("Action") != "" {
		switch version := r.Form.Get("Version"); {
		case version == "2011-06-15": // only STS has this version
			s.serveSTS(w, r, r.Form.Get("Action"))
		case queryServices[version].name != "":
			s.serveQuery(w, r, queryServices[version], r.Form.Get("Action"))
		default:
			s.serveEC2(w, r, r.Form.Get("Action"))
		}
		return
	}
	http.Error(w, "not a call to a service that the router uses", http.StatusBadRequest)
}

// signedFor returns the region in the request's signature; ok is false if the request has
// no signature in AWS's format.
func signedFor(r *http.Request) (region string, ok bool) {
	scope, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=")
	part := strings.SplitN(scope, "/", 4) // key id, date, region, the rest
	if !ok || len(part) < 4 {
		return "", false
	}
	return part[2], true
}

// in returns the world as seen in a region: w in its own, an empty one in any other.
func (w World) in(region string) World {
	if region != w.region() {
		return World{Region: region}
	}
	return w
}

const requestID = "59dbff89-35bd-4eac-99ed-be587EXAMPLE"
