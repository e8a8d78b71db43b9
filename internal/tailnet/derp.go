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

// DefaultControl is Tailscale's control server.
const DefaultControl = ipn.DefaultControlURL

// ControlProbe is the URL of a control server (DefaultControl, if "") at which
// every node begins: its public key, which anybody may read.
func ControlProbe(control string) string {
	return fmt.Sprintf("%s/key?v=%d", cmp.Or(control, DefaultControl), tailcfg.CurrentCapabilityVersion)
}

// DERPMap holds the DERP servers that a control server gives its nodes.
type DERPMap struct {
	m       *tailcfg.DERPMap
	monitor *netmon.Monitor
}

// ErrRelaysUntold says that a control server lists its DERP servers for members only.
var ErrDERPMapForMembers = errors.New("the control server lists its DERP servers for members only")

// mapLimit bounds a DERP map in bytes; Tailscale's has some 40,000.
const mapLimit = 1 << 20

// FetchDERPMap asks a control server for its relays as anybody may: Tailscale's
// publishes them. Where it does not, the error is [ErrRelaysUntold].
func FetchDERPMap(ctx context.Context, control string) (*DERPMap, error) {
	url := cmp.Or(control, DefaultControl) + "/derpmap/default"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking control server for its relays: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mapLimit))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, ErrDERPMapForMembers
	case err != nil:
		return nil, fmt.Errorf("asking control server for its relays: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("asking control server for its relays: HTTP status %s", resp.Status)
	}
	if r, err := ParseDERPMap(body); err == nil {
		return r, nil
	}
	return nil, ErrDERPMapForMembers // a page for people, at any path
}

// ParseDERPMap parses the result of [Node.DERPMap].
func ParseDERPMap(data []byte) (*DERPMap, error) {
	r := &DERPMap{m: new(tailcfg.DERPMap), monitor: netmon.NewStatic()}
	if err := json.Unmarshal(data, r.m); err != nil {
		return nil, fmt.Errorf("reading the list of relays: %w", err)
	}
	if len(r.m.Regions) == 0 {
		return nil, errors.New("reading the list of relays: it has none")
	}
	return r, nil
}

// DERPMap returns the node's DERP servers in JSON, as control gave it; nil before
// there is one.
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

// mark gives sockets the mark that keeps them out of the tailnet where a router of
// the given mode would.
func mark(mode Mode) { netns.SetEnabled(mode == ModeKernel) }

// Reach is how one relay region was reached over TCP and TLS.
type Reach struct {
	Region  string // its code: "fra"
	Host    string // the server that answered, or was tried first
	Latency time.Duration
	Err     error // nil: it answered as a DERP server does
}

// Dial reaches every region as a node does (TCP, TLS with the certificate that
// the list asks for, HTTP; through a proxy if there is one), all at once. The
// nearest comes first, those that failed last.
func (r *DERPMap) Dial(ctx context.Context, mode Mode) []Reach {
	mark(mode)
	var list []Reach
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, region := range r.m.Regions {
		if len(region.Nodes) == 0 {
			continue
		}
		wg.Go(func() {
			reach := Reach{Region: cmp.Or(region.RegionCode, fmt.Sprint(region.RegionID)), Host: region.Nodes[0].HostName}
			reach.Latency, reach.Err = dialRelay(ctx, r.monitor, region, &reach.Host)
			mu.Lock()
			defer mu.Unlock()
			list = append(list, reach)
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b Reach) int {
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

// dialRelay measures one HTTP exchange on a connection that is up.
func dialRelay(ctx context.Context, monitor *netmon.Monitor, region *tailcfg.DERPRegion, host *string) (time.Duration, error) {
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

// innermost strips what repeats the address.
func innermost(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Mapping is what the network makes of the ports of outgoing UDP.
type Mapping string

// The kinds of mapping.
const (
	MappingUnknown     Mapping = "unknown"              // less than two servers answered
	MappingNone        Mapping = "none"                 // the address seen outside is the host's own
	MappingIndependent Mapping = "endpoint-independent" // one port, whoever is asked: peers can find it
	MappingDependent   Mapping = "endpoint-dependent"   // another port for each peer: nobody can guess it
)

// UDP is what STUN told of the way out.
type UDP struct {
	Works   bool // an answer came
	Servers int  // how many were asked
	Seen    int  // how many different servers answered over IPv4
	Mapping Mapping
	Public4 netip.AddrPort // as one server saw it
	Public6 netip.AddrPort
	Nearest string // the region's code
	Latency time.Duration
}

// UDP asks the relays' STUN servers from a free port, by the engine's own
// netcheck: at most 5 s.
func (r *DERPMap) UDP(ctx context.Context, mode Mode) (UDP, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the sockets
	mark(mode)
	client := &netcheck.Client{NetMon: r.monitor, Logf: logger.Discard}
	if err := client.Standalone(ctx, ":0"); err != nil {
		return UDP{}, fmt.Errorf("opening a UDP socket: %w", err)
	}
	// The engine probes a few servers and stops at enough; this counts them.
	seen := servers{asked: map[netip.AddrPort]bool{}}
	send := client.SendPacket
	client.SendPacket = func(packet []byte, dst netip.AddrPort) (int, error) {
		if stun.Is(packet) {
			seen.ask(dst)
		}
		return send(packet, dst)
	}
	report, err := client.GetReport(ctx, r.m, &netcheck.GetReportOpts{OnlySTUN: true})
	if err != nil {
		return UDP{}, fmt.Errorf("measuring the way out: %w", err)
	}
	out := UDP{
		Works: report.UDP, Servers: seen.count(), Mapping: MappingUnknown,
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
	if out.Mapping != MappingDependent && r.own(report.GlobalV4.Addr()) {
		out.Mapping = MappingNone
	}
	return out, nil
}

// own reports whether a is an address of this host.
func (r *DERPMap) own(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(list, func(own net.Addr) bool {
		p, err := netip.ParsePrefix(own.String())
		return err == nil && p.Addr() == a
	})
}

type servers struct {
	mu    sync.Mutex
	asked map[netip.AddrPort]bool
}

func (s *servers) ask(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[a] = true
}

func (s *servers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// ModeFor returns the mode a node of this configuration takes, and why; the error is
// that of [New].
func ModeFor(want Mode) (Mode, string, error) { return chooseMode(want) }

// String names the regions, for a message.
func (r *DERPMap) String() string {
	var codes []string
	for _, region := range r.m.Regions {
		codes = append(codes, cmp.Or(region.RegionCode, fmt.Sprint(region.RegionID)))
	}
	slices.Sort(codes)
	return strings.Join(codes, ", ")
}
