package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tailscale/wireguard-go/tun"
	"go4.org/netipx"

	own "subnetrouter/internal/packet"
	"subnetrouter/internal/testwait"

	"tailscale.com/feature/featuretags"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/net/packet"
	"tailscale.com/net/tsdial"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/filter"
)

// TestContract holds every behaviour of the engine that this package relies on, and that
// Tailscale neither documents nor promises, against the published engine. docs/decisions/0002
// describes the update to a new version; a failure here names what has changed.
//
// Two dependencies have tests of their own: TestEngineSeesPortsOfFragments (the filter's
// treatment of fragments), and tailnettest's (the name of the type that testcontrol keeps
// machine keys under).
func TestContract(t *testing.T) {
	for name, check := range map[string]func(*testing.T){
		"the log reports a removal":            logReportsRemoval,
		"a warning holds the login error":      warningHoldsLoginError,
		"SetFilter may ask the backend":        setFilterMayAskBackend,
		"a copied filter shares its flows":     copiedFilterSharesFlows,
		"TSMP passes every filter":             tsmpPassesEveryFilter,
		"the control client is announced":      controlClientIsAnnounced,
		"the dialer uses both netstack dials":  dialerUsesNetstackDials,
		"no role opens no peer API":            noPeerAPI,
		"a role opens a peer API":              peerAPIOfRole,
		"the LocalAPI reports the peer relay":  localAPIReportsRelay,
		"the device's packets have their gaps": deviceLeavesGaps,
		"the build tags are known":             buildTagsAreKnown,
	} {
		t.Run(name, check)
	}
}

// logReportsRemoval: the engine logs "Received error: %v" for a poll that control answers with
// 404, and "lite map update error" for an update, with an error whose text has notFound. There
// is no other sign of a removal; see watchLog.
func logReportsRemoval(t *testing.T) {
	control := startTailnet(t, nil)
	var errs atomic.Int32
	n := startNode(t, control, give(testKey), func(c *Config) {
		c.Logger = slog.New(lines(func(text string) {
			if strings.Contains(text, notFound) && (strings.Contains(text, "Received error: ") || strings.Contains(text, "lite map update error")) {
				errs.Add(1)
			}
		}))
	})
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	before, _ := n.Status()
	if err := control.DeleteNode(t.Context(), "edge"); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, n, "the removal", func(s *Status) bool { return s.Removed || s.IPs[0] != before.IPs[0] })
	// The status changes before the line of the second error is written.
	testwait.Until(t, "the errors in the log", func() error {
		if got := errs.Load(); got < removedAfter {
			return fmt.Errorf("the log has %d such errors, want %d", got, removedAfter)
		}
		return nil
	})
}

// lines is a handler that calls a function with the text of each line of the engine's log.
type lines func(text string)

func (lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l lines) WithGroup(string) slog.Handler          { return l }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "text" {
			l(a.Value.String())
		}
		return true
	})
	return nil
}

// warningHoldsLoginError: the warning of tsconst.HealthWarnableLoginState holds the error of the
// last attempt behind a fixed text; see engineRegistrar.lastError.
func warningHoldsLoginError(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := "http://" + ln.Addr().String()
	ln.Close()
	n, err := New(Config{ControlURL: nowhere, Mode: ModeUserspace, Credential: give(testKey), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(nothing{make(chan struct{})}, nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNode(t, n) })
	if err := n.Join(Identity{Hostname: "edge"}); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the error of the last attempt", func() error {
		if text := n.registrar.lastError(); !strings.Contains(text, "refused") {
			return fmt.Errorf("the error is %q", text)
		}
		return nil
	})
}

// setFilterMayAskBackend: SetFilter is called with LocalBackend's lock held, and
// NetMapWithPeers and PeerForIP do not take it: with a lock, the node would never be running.
func setFilterMayAskBackend(t *testing.T) {
	n := startNode(t, startTailnet(t, nil), give(testKey), nil)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	testwait.Until(t, "rules from the netmap", func() error {
		if n.engine.rules.Load() == nil {
			return errors.New("SetFilter has found no rules")
		}
		return nil
	})
}

// copiedFilterSharesFlows: a copy of a filter accepts the answers of flows that the original has
// seen; see frozenEngine.install.
func copiedFilterSharesFlows(t *testing.T) {
	f := filter.New(nil, nil, allAddrs, nil, nil, logger.Discard)
	copied := *f
	var out, in packet.Parsed
	out.Decode(udp4("10.0.1.6", laptop, 53, 1000))
	in.Decode(udp4(laptop, "10.0.1.6", 1000, 53))
	if copied.RunIn(&in, 0) == filter.Accept {
		t.Error("accepted before the flow")
	}
	f.RunOut(&out, 0)
	if copied.RunIn(&in, 0) != filter.Accept {
		t.Error("the copy does not know the original's flow")
	}
}

// tsmpPassesEveryFilter: clients accept a Rejection whatever their access rules are.
func tsmpPassesEveryFilter(t *testing.T) {
	for _, a := range [][2]string{{laptop + ":1000", "10.0.1.6:5432"}, {"[fd7a:115c:a1e0::2]:1000", "[2600:1f18::4]:5432"}} {
		client := netip.MustParseAddrPort(a[0])
		var local netipx.IPSetBuilder
		local.Add(client.Addr())
		set, err := local.IPSet()
		if err != nil {
			t.Fatal(err)
		}
		var p packet.Parsed
		p.Decode(Rejection(false, uint8(ipproto.TCP), client, netip.MustParseAddrPort(a[1])))
		if r := filter.New(nil, nil, set, nil, nil, logger.Discard).RunIn(&p, 0); r != filter.Accept {
			t.Errorf("%v: %v, want %v", client, r, filter.Accept)
		}
	}
}

// controlClientIsAnnounced: the backend announces its control client to extensions.
func controlClientIsAnnounced(t *testing.T) {
	n := startNode(t, startTailnet(t, nil), give(testKey), nil)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	if hook, ok := ipnlocal.GetExt[*controlHook](n.lb); !ok || hook.get() == nil {
		t.Error("the extension has no control client")
	}
}

// dialerUsesNetstackDials: the dialer asks UseNetstackForIP, and then fails unless both dial
// functions are set; see dialFromNode.
func dialerUsesNetstackDials(t *testing.T) {
	d := &tsdial.Dialer{Logf: logger.Discard}
	d.UseNetstackForIP = func(netip.Addr) bool { return true }
	var tcp, udp string
	d.NetstackDialTCP = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		tcp = to.String()
		return nil, errors.ErrUnsupported
	}
	if _, err := d.UserDial(t.Context(), "tcp", "100.64.0.9:22"); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("with one dial function: %v", err)
	}
	d.NetstackDialUDP = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		udp = to.String()
		return nil, errors.ErrUnsupported
	}
	for _, network := range []string{"tcp", "udp"} {
		if _, err := d.UserDial(t.Context(), network, "100.64.0.9:22"); err == nil {
			t.Errorf("%s: dialed", network)
		}
	}
	if tcp != "100.64.0.9:22" || udp != tcp {
		t.Errorf("dialed %q over TCP and %q over UDP", tcp, udp)
	}
}

// noPeerAPI: the backend opens the peer API, which listens on the host, only after a Reconfig that
// has changed something; see frozenEngine.Reconfig.
func noPeerAPI(t *testing.T) {
	n := startNode(t, startTailnet(t, nil), give(testKey), nil)
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	n.Advertise([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")})
	awaitStatus(t, n, "the announcement", func(s *Status) bool { return len(s.Advertised) > 0 })
	s, _ := n.Status()
	for _, ip := range s.IPs {
		if port, ok := n.lb.GetPeerAPIPort(ip); ok {
			t.Errorf("the peer API listens at %v, port %d", ip, port)
		}
	}
}

// peerAPIOfRole: with a role the backend opens a peer API for each address, whose port it
// publishes.
func peerAPIOfRole(t *testing.T) {
	n := startNode(t, startTailnet(t, nil), give(testKey), func(c *Config) { c.ExitNode = true })
	awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
	testwait.Until(t, "the peer API", func() error {
		s, _ := n.Status()
		for _, ip := range s.IPs {
			if _, ok := n.lb.GetPeerAPIPort(ip); !ok {
				return fmt.Errorf("no port for %v", ip)
			}
		}
		return nil
	})
}

// localAPIReportsRelay: the LocalAPI has the port of a peer relay if it is bound.
func localAPIReportsRelay(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	relay := func() *Node {
		n := startNode(t, startTailnet(t, nil), give(testKey), func(c *Config) { c.PeerRelay = port })
		awaitStatus(t, n, "membership", func(s *Status) bool { return s.Running() })
		return n
	}
	if n := relay(); n.PeerRelay().Bound {
		t.Error("a relay whose port is in use counts as bound")
	}
	taken.Close()
	n := relay()
	testwait.Until(t, "the relay", func() error {
		if got := n.PeerRelay(); !got.Bound || got.Sessions != 0 {
			return fmt.Errorf("the relay is %+v", got)
		}
		return nil
	})
}

// deviceLeavesGaps: WireGuard encrypts packets in place, with its header before and its tag behind
// each.
func deviceLeavesGaps(t *testing.T) {
	f := &some{sizes: []int{1, 1280, 40, 1536}}
	d := newFlowDevice(&Node{forwarder: f})
	slab, packets := make([]byte, 1<<17), make([]tun.ReadPacket, d.BatchSize())
	n, err := d.Read(slab, packets)
	if err != nil || n != len(f.sizes) {
		t.Fatalf("%d packets, %v, want %d", n, err, len(f.sizes))
	}
	end := 0
	for i, p := range packets[:n] {
		if p.Offset < end+tun.ReadPacketSpacing || p.Size != f.sizes[i] || p.Offset+p.Size+tun.ReadPacketSpacing > len(slab) ||
			slab[p.Offset] != byte(i+1) || slab[p.Offset+p.Size-1] != byte(i+1) {
			t.Errorf("packet %d of %d bytes is at %d, after %d", i, p.Size, p.Offset, end)
		}
		end = p.Offset + p.Size
	}
}

// some is a Forwarder with a packet of each of the sizes, filled with its number.
type some struct {
	nothing
	sizes []int
}

func (s *some) Receive(to *own.Slab) error {
	for i, size := range s.sizes {
		p := to.Add(size)
		for k := range p {
			p[k] = byte(i + 1)
		}
	}
	return nil
}

// buildTagsAreKnown: a tag that a new version has renamed would silently have no effect. Each feature of the
// engine is left out, or linked for a reason.
func buildTagsAreKnown(t *testing.T) {
	decided := map[featuretags.FeatureTag]int{}
	for line := range strings.Lines(readTags(t)) {
		name, listed := strings.CutPrefix(line, "# linked: ")
		if fields := strings.Fields(name); listed && len(fields) > 2 {
			decided[featuretags.FeatureTag(fields[0])]++
			continue
		} else if listed {
			t.Errorf("build/tags has no size or reason for %s", name)
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, omit := strings.CutPrefix(strings.TrimSpace(line), "ts_omit_")
		if !omit {
			t.Errorf("build/tags has %s, which is no tag of the engine", name)
		}
		decided[featuretags.FeatureTag(name)]++
	}
	for feature, n := range decided {
		if f, known := featuretags.Features[feature]; !known || f.Sym == "" || n != 1 {
			t.Errorf("build/tags has %s %d times; a feature of the engine: %t", feature, n, known)
		}
	}
	for feature, f := range featuretags.Features {
		if decided[feature] == 0 && f.Sym != "" && feature.IsOmittable() {
			t.Errorf("build/tags neither leaves out nor explains %s: %s", feature, f.Desc)
		}
	}
}

func readTags(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../build/tags")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
