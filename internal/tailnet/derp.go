package tailnet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/derp/derphttp"
	"tailscale.com/ipn"
	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/net/netns"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/logger"
)

// This file examines the network for the doctor command. The node does not use it.

// DERPMap is the DERP map of a control server: its DERP servers by region.
type DERPMap struct {
	m       *tailcfg.DERPMap
	monitor *netmon.Monitor
}

// ErrDERPMapForMembers is the error of [FetchDERPMap] if the control server sends its DERP
// map only to members of the tailnet.
var ErrDERPMapForMembers = errors.New("the control server lists its DERP servers for members only")

// maxDERPMapSize bounds a DERP map in bytes; Tailscale's has some 40,000.
const maxDERPMapSize = 1 << 20

// FetchDERPMap fetches a control server's DERP map without authentication. Tailscale's
// control publishes it; if another does not, the error is [ErrDERPMapForMembers].
func FetchDERPMap(ctx context.Context, control string) (*DERPMap, error) {
	url := cmp.Or(control, ipn.DefaultControlURL) + "/derpmap/default"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching DERP map from control server: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDERPMapSize))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, ErrDERPMapForMembers
	case err != nil:
		return nil, fmt.Errorf("fetching DERP map from control server: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("fetching DERP map from control server: HTTP status %s", resp.Status)
	}
	if r, err := ParseDERPMap(body); err == nil {
		return r, nil
	}
	return nil, ErrDERPMapForMembers // the server answers with a web page at any path
}

// ParseDERPMap parses a DERP map in JSON, as [Node.DERPMap] returns it.
func ParseDERPMap(data []byte) (*DERPMap, error) {
	r := &DERPMap{m: new(tailcfg.DERPMap), monitor: netmon.NewStatic()}
	if err := json.Unmarshal(data, r.m); err != nil {
		return nil, fmt.Errorf("parsing DERP map: %w", err)
	}
	if len(r.m.Regions) == 0 {
		return nil, errors.New("parsing DERP map: it has no regions")
	}
	return r, nil
}

// DERPMap returns the DERP map that control sent this node, in JSON, or nil before the
// first one.
func (n *Node) DERPMap() []byte {
	if !n.Started() {
		return nil
	}
	m := n.lb.DERPMap()
	if m == nil || len(m.Regions) == 0 {
		return nil
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	return data
}

// setSocketMark has sockets marked as a router in the given mode marks them, so that they
// bypass the tailnet. It affects the whole process.
func setSocketMark(mode Mode) { netns.SetEnabled(mode == ModeKernel) }

// RegionProbe is the result of probing one DERP region over TCP and TLS.
type RegionProbe struct {
	Region  string // the region's code: "fra"
	Host    string // the server that answered, or was tried first
	Latency time.Duration
	Err     error // nil if the server answered as a DERP server does
}

// Dial probes all regions at once, connecting as a node does: TCP, TLS with the
// certificate that the DERP map specifies, HTTP; through a proxy if there is one. It
// returns the nearest region first, and failed ones last.
func (r *DERPMap) Dial(ctx context.Context, mode Mode) []RegionProbe {
	setSocketMark(mode)
	var list []RegionProbe
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, region := range r.m.Regions {
		if len(region.Nodes) == 0 {
			continue
		}
		wg.Go(func() {
			probe := RegionProbe{Region: cmp.Or(region.RegionCode, fmt.Sprint(region.RegionID)), Host: region.Nodes[0].HostName}
			probe.Latency, probe.Err = probeRegion(ctx, r.monitor, region, &probe.Host)
			mu.Lock()
			defer mu.Unlock()
			list = append(list, probe)
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b RegionProbe) int {
		return cmp.Or(cmp.Compare(bit(a.Err != nil), bit(b.Err != nil)), cmp.Compare(a.Latency, b.Latency), cmp.Compare(a.Region, b.Region))
	})
	return list
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// probeRegion connects to a region and returns the time of one HTTP exchange on the
// connection. It sets host to the server that it connected to.
func probeRegion(ctx context.Context, monitor *netmon.Monitor, region *tailcfg.DERPRegion, host *string) (time.Duration, error) {
	dialer := derphttp.NewNetcheckClient(logger.Discard, monitor)
	defer dialer.Close()
	conn, closer, node, err := dialer.DialRegionTLS(ctx, region)
	if err != nil {
		return 0, innermost(err)
	}
	defer closer.Close()
	*host = node.HostName
	client := http.Client{Transport: &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+node.HostName+"/derp/probe", nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, innermost(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("HTTP status %s instead of a DERP server's answer", resp.Status)
	}
	return time.Since(start), nil
}

// innermost strips the parts of an error that repeat the address.
func innermost(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Mapping classifies the address mapping (NAT) of outgoing UDP.
type Mapping string

// The kinds of mapping.
const (
	MappingUnknown     Mapping = "unknown"              // fewer than two servers answered
	MappingNone        Mapping = "none"                 // the public address is the host's own
	MappingIndependent Mapping = "endpoint-independent" // the same port to all servers: peers can learn it
	MappingDependent   Mapping = "endpoint-dependent"   // a different port to each peer: peers cannot learn it
)

// UDP is the result of probing outbound UDP with STUN.
type UDP struct {
	Works   bool // a server answered
	Servers int  // the number of servers asked
	Seen    int  // the number of servers that answered over IPv4
	Mapping Mapping
	Public4 netip.AddrPort // as one server saw it
	Public6 netip.AddrPort
	Nearest string        // the region's code
	Latency time.Duration // of the nearest region
}

// UDP probes the STUN servers of the DERP map from a free port, with the engine's
// netcheck, for at most 5 s.
func (r *DERPMap) UDP(ctx context.Context, mode Mode) (UDP, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the sockets
	setSocketMark(mode)
	client := &netcheck.Client{NetMon: r.monitor, Logf: logger.Discard}
	if err := client.Standalone(ctx, ":0"); err != nil {
		return UDP{}, fmt.Errorf("opening a UDP socket: %w", err)
	}
	// netcheck stops after enough answers. Count the servers that it asks.
	asked := serverSet{asked: map[netip.AddrPort]bool{}}
	send := client.SendPacket
	client.SendPacket = func(packet []byte, dst netip.AddrPort) (int, error) {
		if stun.Is(packet) {
			asked.add(dst)
		}
		return send(packet, dst)
	}
	report, err := client.GetReport(ctx, r.m, &netcheck.GetReportOpts{OnlySTUN: true})
	if err != nil {
		return UDP{}, fmt.Errorf("probing outbound UDP: %w", err)
	}
	out := UDP{
		Works: report.UDP, Servers: asked.count(), Mapping: MappingUnknown,
		Public4: report.GlobalV4, Public6: report.GlobalV6,
	}
	if region := r.m.Regions[report.PreferredDERP]; region != nil {
		out.Nearest, out.Latency = region.RegionCode, report.RegionLatency[report.PreferredDERP]
	}
	for _, n := range report.GlobalV4Counters {
		out.Seen += n
	}
	if varies, known := report.MappingVariesByDestIP.Get(); known {
		out.Mapping = MappingIndependent
		if varies {
			out.Mapping = MappingDependent
		}
	}
	if out.Mapping != MappingDependent && r.isLocal(report.GlobalV4.Addr()) {
		out.Mapping = MappingNone
	}
	return out, nil
}

// isLocal reports whether a is an address of this host.
func (r *DERPMap) isLocal(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(list, func(own net.Addr) bool {
		p, err := netip.ParsePrefix(own.String())
		return err == nil && p.Addr() == a
	})
}

// serverSet is a set of servers that is safe for concurrent use.
type serverSet struct {
	mu    sync.Mutex
	asked map[netip.AddrPort]bool // covered by mu
}

func (s *serverSet) add(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[a] = true
}

func (s *serverSet) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// String lists the codes of the regions.
func (r *DERPMap) String() string {
	var codes []string
	for _, region := range r.m.Regions {
		codes = append(codes, cmp.Or(region.RegionCode, fmt.Sprint(region.RegionID)))
	}
	slices.Sort(codes)
	return strings.Join(codes, ", ")
}
