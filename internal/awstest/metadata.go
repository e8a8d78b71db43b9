package awstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Task is an ECS task with one container.
type Task struct {
	LaunchType  string // "FARGATE" (default) or "EC2"
	ARN         string // default: one in the region
	Region      string // default "eu-west-1"
	Zone        string // default Region + "a"
	Family      string // default "router"
	Service     string // "": the task does not belong to a service
	ContainerID string // default: one that belongs to the default ARN
	VPCID       string // reported only with launch type EC2, as in ECS
	CPU         float64
	MemoryMiB   int
	NetworkMode string // default "awsvpc"; "none" reports no networks at all

	// Except for the addresses, reported only in network mode awsvpc.
	MAC                    string
	IPv4, IPv6             []netip.Addr
	IPv4Subnet, IPv6Subnet netip.Prefix
	DNS                    []netip.Addr
}

// Metadata is the task metadata endpoint, version 4, of one task. As in ECS, the same
// address serves the task role's credentials.
type Metadata struct {
	*listener
	failures // by path: "" is the container, "/task" the task, "/credentials" the role's

	mu   sync.Mutex
	task Task
}

const metadataPath = "/v4/6f1d0c5be2ab4d07a1f3c2b4d5e6f708-1870464382"

// NewMetadata starts the endpoint on addr ("" is a free port on loopback).
func NewMetadata(addr string, t Task) (*Metadata, error) {
	m := &Metadata{task: t}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+metadataPath, m.serve("", func(t Task) any { return t.container() }))
	mux.HandleFunc("GET "+metadataPath+"/task", m.serve("/task", func(t Task) any { return t.document() }))
	mux.HandleFunc("GET /v2/credentials/role", m.serve("/credentials", roleCredentials))
	var err error
	if m.listener, err = listen(addr, mux); err != nil {
		return nil, fmt.Errorf("starting the task metadata endpoint: %w", err)
	}
	return m, nil
}

// ServeHTTP answers a request without a connection, as [Server.ServeHTTP] does.
func (m *Metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.srv.Handler.ServeHTTP(w, r) }

// Env returns the variables that ECS sets in the container.
func (m *Metadata) Env() map[string]string {
	return map[string]string{"ECS_CONTAINER_METADATA_URI_V4": m.URI()}
}

// URI returns the value of ECS_CONTAINER_METADATA_URI_V4.
func (m *Metadata) URI() string { return m.url + metadataPath }

// CredentialsURI returns a value for AWS_CONTAINER_CREDENTIALS_FULL_URI. ECS sets the
// relative URI, which the SDK resolves only against 169.254.170.2.
func (m *Metadata) CredentialsURI() string { return m.url + "/v2/credentials/role" }

// Update changes the task.
func (m *Metadata) Update(change func(*Task)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.task)
}

func (m *Metadata) serve(path string, document func(Task) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fail := m.next(path)
		fail.wait(r.Context())
		if fail.Status != 0 {
			http.Error(w, fail.Message, fail.Status)
			return
		}
		m.mu.Lock()
		task := m.task
		m.mu.Unlock()
		body, err := json.Marshal(document(task))
		if err != nil {
			panic(err) // cannot fail: it has only strings, numbers and addresses
		}
		fail.finish(r.Context())
		fail.send(w, "application/json", body)
	}
}

type object = map[string]any

func (t Task) region() string { return or(t.Region, "eu-west-1") }

func (t Task) arn() string {
	if t.ARN != "" {
		return t.ARN
	}
	return "arn:aws:ecs:" + t.region() + ":123456789012:task/network/6f1d0c5be2ab4d07a1f3c2b4d5e6f708"
}

func (t Task) document() object {
	launchType := or(t.LaunchType, "FARGATE")
	o := object{
		"Cluster": "arn:aws:ecs:" + t.region() + ":123456789012:cluster/network",
		"TaskARN": t.arn(), "Family": or(t.Family, "router"), "Revision": "7",
		"DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
		"AvailabilityZone": or(t.Zone, t.region()+"a"), "LaunchType": launchType,
		"Containers": []any{t.container()},
	}
	if t.Service != "" {
		o["ServiceName"] = t.Service
	}
	if launchType == "EC2" && t.VPCID != "" {
		o["VPCID"] = t.VPCID
	}
	if t.CPU != 0 || t.MemoryMiB != 0 {
		o["Limits"] = object{"CPU": t.CPU, "Memory": t.MemoryMiB}
	}
	return o
}

func (t Task) container() object {
	o := object{
		"DockerId": or(t.ContainerID, "6f1d0c5be2ab4d07a1f3c2b4d5e6f708-1870464382"), "Name": "router", "DockerName": "router",
		"ContainerARN":  strings.Replace(t.arn(), ":task/", ":container/", 1) + "/0f4c1f1e-58ad-4a1b-9d2b-8f5d2f0a7c11",
		"DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "Type": "NORMAL",
		"Limits": object{"CPU": 2},
	}
	if t.NetworkMode != "none" {
		o["Networks"] = []any{t.network()}
	}
	return o
}

func (t Task) network() object {
	mode := or(t.NetworkMode, "awsvpc")
	o := object{"NetworkMode": mode}
	set := func(key string, value any, reported bool) {
		if reported {
			o[key] = value
		}
	}
	set("IPv4Addresses", t.IPv4, len(t.IPv4) > 0)
	set("IPv6Addresses", t.IPv6, len(t.IPv6) > 0)
	awsvpc := mode == "awsvpc"
	set("AttachmentIndex", 0, awsvpc)
	set("MACAddress", t.MAC, awsvpc)
	set("IPv4SubnetCIDRBlock", t.IPv4Subnet, awsvpc && t.IPv4Subnet.IsValid())
	set("IPv6SubnetCIDRBlock", t.IPv6Subnet, awsvpc && t.IPv6Subnet.IsValid())
	set("DomainNameServers", t.DNS, awsvpc && len(t.DNS) > 0)
	return o
}

func roleCredentials(Task) any {
	return object{
		"RoleArn": "arn:aws:iam::123456789012:role/router", "AccessKeyId": accessKeyID,
		"SecretAccessKey": secretAccessKey, "Token": "session",
		"Expiration": time.Now().Add(6 * time.Hour).UTC().Format(time.RFC3339),
	}
}
