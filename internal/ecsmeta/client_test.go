package ecsmeta_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/ecsmeta"
)

// serve is an endpoint with a pair of documents from testdata.
func serve(t *testing.T, shape string) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + shape + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var pair struct{ Container, Task json.RawMessage }
	if err := json.Unmarshal(raw, &pair); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v4/id", func(w http.ResponseWriter, _ *http.Request) { w.Write(pair.Container) })
	mux.HandleFunc("GET /v4/id/task", func(w http.ResponseWriter, _ *http.Request) { w.Write(pair.Task) })
	return start(t, mux) + "/v4/id"
}

func start(t *testing.T, h http.Handler) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func TestTaskShapes(t *testing.T) {
	const (
		arn       = ":123456789012:task/network/6f1d0c5be2ab4d07a1f3c2b4d5e6f708"
		container = ":123456789012:container/network/6f1d0c5be2ab4d07a1f3c2b4d5e6f708/0f4c1f1e-58ad-4a1b-9d2b-8f5d2f0a7c11"
	)
	fargate := ecsmeta.Task{
		Cluster: "arn:aws:ecs:eu-west-1:123456789012:cluster/network", ARN: "arn:aws:ecs:eu-west-1" + arn,
		Family: "router", Revision: "7", Service: "router", LaunchType: "FARGATE",
		Zone: "eu-west-1b", Region: "eu-west-1",
		ContainerID: "6f1d0c5be2ab4d07a1f3c2b4d5e6f708-1870464382", ContainerARN: "arn:aws:ecs:eu-west-1" + container,
		Limits: ecsmeta.Limits{CPU: 0.25, MemoryMiB: 512},
		Network: ecsmeta.Network{
			Mode: "awsvpc", MAC: "06:8f:2a:13:5c:e1", IPv4: addrs("10.20.1.37"),
			IPv4Subnet: netip.MustParsePrefix("10.20.1.0/24"), DNS: addrs("10.20.0.2"),
		},
	}
	dual := fargate
	dual.Limits = ecsmeta.Limits{CPU: 1, MemoryMiB: 1024} // the container's limit is the lower one
	dual.Network.IPv6 = addrs("2a05:d018:7e1:a101:9c4f:31d2:6b07:5e88")
	dual.Network.IPv6Subnet = netip.MustParsePrefix("2a05:d018:7e1:a101::/64")
	awsvpc := ecsmeta.Task{
		Cluster: "network", ARN: "arn:aws:ecs:us-west-2" + arn,
		Family: "router", Revision: "7", Service: "router", LaunchType: "EC2",
		Zone: "us-west-2-lax-1a", Region: "us-west-2", VPCID: "vpc-0c1d2e3f4a5b6c7d8",
		ContainerID: strings.Repeat("9a", 32), ContainerARN: "arn:aws:ecs:us-west-2" + container,
		Limits: ecsmeta.Limits{MemoryMiB: 384},
		Network: ecsmeta.Network{
			Mode: "awsvpc", MAC: "0e:10:e2:01:bd:91", IPv4: addrs("10.0.2.61"),
			IPv4Subnet: netip.MustParsePrefix("10.0.2.0/24"), DNS: addrs("10.0.0.2"),
		},
	}
	bridge := awsvpc
	bridge.Service, bridge.Zone, bridge.Limits = "", "us-west-2d", ecsmeta.Limits{MemoryMiB: 256}
	bridge.Network = ecsmeta.Network{Mode: "bridge", IPv4: addrs("172.17.0.3")}

	for shape, want := range map[string]ecsmeta.Task{
		"fargate": fargate, "fargate-dual-stack": dual, "ec2-awsvpc": awsvpc, "ec2-bridge": bridge,
	} {
		t.Run(shape, func(t *testing.T) {
			got, err := ecsmeta.New(serve(t, shape), nil).Task(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
	if got := len(dual.Network.Subnets()); got != 2 {
		t.Errorf("dual-stack task has %d subnets, want 2", got)
	}
}

func TestTaskSlowStart(t *testing.T) {
	var asked atomic.Int32
	uri := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case n == 1:
			http.Error(w, "task not found", http.StatusNotFound)
		case n == 2:
			w.Write([]byte(`{"Name": "router"}`)) // without networks, at first
		case n == 3:
			w.Write([]byte(`{"Networks":[{"NetworkMode":"host","IPv4Addresses":[""]}]}`))
		default:
			w.Write([]byte(`{"AvailabilityZone":"ap-southeast-2c"}`))
		}
	}))
	got, err := ecsmeta.New(uri+"/", nil).Task(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Region != "ap-southeast-2" || got.Network.Mode != "host" || got.Network.IPv4 != nil {
		t.Errorf("got %+v", got)
	}
}

func TestTaskErrors(t *testing.T) {
	const advice = "; ECS sets this variable in every task (Fargate platform 1.4.0, EC2 agent 1.39.0 or later); elsewhere unset it and set ROUTER_ROUTES to CIDRs"
	const networks = `{"Networks":[{"NetworkMode":"bridge"}]}`
	answer := func(status int, container string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v4/id" {
				w.WriteHeader(status)
				w.Write([]byte(container))
				return
			}
			http.Error(w, "", http.StatusInternalServerError)
		}
	}
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string // after the address
	}{
		"status":       {answer(500, ""), ": HTTP status 500 Internal Server Error" + advice},
		"task missing": {answer(200, networks), "/task: HTTP status 500 Internal Server Error" + advice},
		"no networks":  {answer(200, `{"Networks":[]}`), ": the answer has no Networks; run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs"},
		"not JSON":     {answer(200, "<html>"), ": invalid character '<' looking for beginning of value" + advice},
		"truncated":    {answer(200, networks[:20]), ": unexpected end of JSON input" + advice},
		"too large":    {answer(200, strings.Repeat(" ", 2<<20)), ": the answer is larger than 1048576 bytes" + advice},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			uri := start(t, c.h) + "/v4/id"
			_, err := ecsmeta.New(uri, nil).Task(t.Context())
			if want := "reading task metadata from ECS_CONTAINER_METADATA_URI_V4=" + uri + c.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
	t.Run("malformed prefix", func(t *testing.T) {
		t.Parallel()
		uri := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`{"Networks":[{"IPv4SubnetCIDRBlock":"10.0.0.0"}]}`))
		}))
		_, err := ecsmeta.New(uri, nil).Task(t.Context())
		if err == nil || !strings.Contains(err.Error(), "parsing IPv4SubnetCIDRBlock: ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("unset", func(t *testing.T) {
		_, err := ecsmeta.New("", nil).Task(t.Context())
		const want = "reading task metadata: ECS_CONTAINER_METADATA_URI_V4 is not set; ECS sets it in every task, elsewhere set ROUTER_ROUTES to CIDRs"
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

func TestTaskUnreachable(t *testing.T) {
	srv := httptest.NewServer(nil)
	uri := srv.URL
	srv.Close()
	_, err := ecsmeta.New(uri, nil).Task(t.Context())
	want := "reading task metadata from ECS_CONTAINER_METADATA_URI_V4=" + uri + ": dial tcp " + strings.TrimPrefix(uri, "http://") +
		": connect: connection refused; ECS sets this variable in every task (Fargate platform 1.4.0, EC2 agent 1.39.0 or later); elsewhere unset it and set ROUTER_ROUTES to CIDRs"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestTaskStopsWithItsContext(t *testing.T) {
	uri := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := ecsmeta.New(uri, nil).Task(ctx)
	if err == nil || err.Error() != "reading task metadata: context deadline exceeded" {
		t.Errorf("got %v", err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("returned after %v", d)
	}
}
