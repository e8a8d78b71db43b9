package awstest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Server is an AWS endpoint that answers from a [World].
type Server struct {
	*listener
	failures

	mu    sync.Mutex
	world World
	calls []string
}

// NewServer starts a server on addr ("" is a free port on loopback).
func NewServer(addr string, w World) (*Server, error) {
	s := &Server{world: w}
	var err error
	if s.listener, err = listen(addr, s); err != nil {
		return nil, fmt.Errorf("starting the AWS endpoint: %w", err)
	}
	return s, nil
}

// Env is the environment that leads the AWS SDK to this server.
func (s *Server) Env() map[string]string { return env(s.url, s.snapshot().region()) }

// Update changes the world: a rotated secret, a VPC that has gone. Maps and
// slices must be replaced, not written to, where a request may be reading them.
func (s *Server) Update(change func(*World)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.world)
}

// Calls lists the actions that were called so far: "ec2:DescribeVpcs".
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

// ServeHTTP answers the protocols that the router's services speak. They share
// one address, as with AWS_ENDPOINT_URL.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager."); ok {
		s.serveSecretsManager(w, r, operation)
		return
	}
	if err := r.ParseForm(); err == nil && r.Form.Get("Action") != "" {
		if r.Form.Get("Version") == "2011-06-15" { // STS's, and nobody else's
			s.serveSTS(w, r, r.Form.Get("Action"))
			return
		}
		s.serveEC2(w, r, r.Form.Get("Action"))
		return
	}
	http.Error(w, "neither a Secrets Manager nor an EC2 nor an STS call", http.StatusBadRequest)
}

// signedFor returns the region in the request's signature; ok is false
// without a signature of AWS's form.
func signedFor(r *http.Request) (region string, ok bool) {
	scope, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=")
	part := strings.SplitN(scope, "/", 4) // key id, date, region, the rest
	if !ok || len(part) < 4 {
		return "", false
	}
	return part[2], true
}

// in is the world as it looks from a region: empty, but for its own.
func (w World) in(region string) World {
	if region != w.region() {
		return World{Region: region}
	}
	return w
}

const requestID = "59dbff89-35bd-4eac-99ed-be587EXAMPLE"
