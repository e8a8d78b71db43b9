package e2e

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// The network, which has no access to the Internet:
//
//	self (control, DERP, AWS) 192.168.77.10 ─┐
//	client                    192.168.77.20 ─┤ internet
//	router                    192.168.77.30 ─┘
//	router 10.0.1.5 ── vpc ── gateway 10.0.1.1, which has the address of every host of the VPC:
//	       10.0.3.4 (first CIDR), 10.8.0.9 (second CIDR), one IPv6 host
const (
	selfIP, clientIP, routerIP = "192.168.77.10", "192.168.77.20", "192.168.77.30"
	routerVPC, gatewayVPC      = "10.0.1.5", "10.0.1.1"
	dbHost, secondHost         = "10.0.3.4", "10.8.0.9"
	metadataIP                 = "169.254.170.2"

	secretName     = "tailscale/auth-key"
	tag, clientTag = "tag:subnet-router", "tag:laptop"
	otherTag       = "tag:other-router"
)

// approvedRanges holds the ranges of VPC CIDRs in the policy's autoApprovers. They are wide,
// as the tailnet exists before the VPC, whose IPv6 CIDR AWS chooses.
var approvedRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2000::/3")}

// world holds everything around the router.
type world struct {
	t                   *testing.T
	net                 *netnstest.Network
	internet, vpcSwitch *netnstest.Switch
	self, client, vpc   *netnstest.Host
	routerHost          *netnstest.Host
	control             tailnettest.Control
	authority           *certificateAuthority // nil unless worldOptions.certificates
	routerKey           secret.String         // the secret's value
	clientKey           secret.String
	moto                *awstest.Moto
	aws                 awstest.World
	cidr6               netip.Prefix // the VPC's IPv6 CIDR
	host6, router6, gw6 netip.Addr
	routerMAC           string
	metadata            *awstest.Metadata
	resolver            *process        // the VPC's; nil if it is not started
	advertised          []netip.Prefix  // routes that a router in this VPC should find
	wire                *netnstest.Wire // worldOptions.wire; nil if there is none
	inProgress          *atomic.Int32   // requests that a server of the VPC has not answered yet
}

type worldOptions struct {
	policy       tailnettest.Policy
	task         func(*awstest.Task)         // changes the task metadata
	zones        map[string]netip.Addr       // the tailnet's split DNS: the nameserver of each
	certificates bool                        // the tailnet allows certificates, of an authority of its own
	wire         *netnstest.DirectionOptions // in each direction, between the client and everything else; nil: a short cable
}

func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	netnstest.Require(t)
	w := &world{t: t, net: netnstest.New(t), inProgress: new(atomic.Int32)}
	w.internet, w.vpcSwitch = w.net.Switch("internet"), w.net.Switch("vpcnet")
	w.self, w.client, w.vpc, w.routerHost = w.net.Self(), w.net.Host("client"), w.net.Host("vpc"), w.net.Host("router")
	w.internet.Plug(w.self, "eth0", selfIP+"/24")
	if o.wire != nil {
		w.wire = w.internet.PlugOver(w.client, "eth0", netnstest.Symmetric(*o.wire), clientIP+"/24")
	} else {
		w.internet.Plug(w.client, "eth0", clientIP+"/24")
	}
	w.startControl(o)
	w.startAWS()
	w.plugRouter(w.routerHost, routerIP, routerVPC, w.router6)
	w.startVPC()
	w.startMetadata(o.task)
	return w
}

func (w *world) startAWS() {
	t := w.t
	moto, err := awstest.StartMoto(t.Context(), awstest.MotoOptions{Addr: selfIP + ":0"})
	if errors.Is(err, awstest.ErrNoMoto) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { moto.Close() })
	w.moto = moto
	w.aws, err = moto.Seed(t.Context(), awstest.Plan{
		CIDRs:   []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.8.0.0/16")},
		IPv6:    true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")},
		Secrets: map[string]awstest.Secret{secretName: {Value: `{"auth_key":"` + w.routerKey.Reveal() + `"}`}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range w.aws.VPCs[0].CIDRs {
		w.advertised = append(w.advertised, a.Prefix)
		if a.Prefix.Addr().Is6() {
			w.cidr6 = a.Prefix
		}
	}
	w.routerMAC = w.aws.Interfaces[0].MAC
	within := func(subnet, host byte) netip.Addr {
		b := w.cidr6.Addr().As16()
		b[7], b[15] = subnet, host
		return netip.AddrFrom16(b)
	}
	w.router6, w.gw6, w.host6 = within(1, 5), within(1, 1), within(3, 4)
}

// plugRouter connects a host to the networks, as a task with an interface in the VPC.
func (w *world) plugRouter(h *netnstest.Host, internetIP, vpcIP string, vpcIP6 netip.Addr) {
	w.internet.Plug(h, "eth0", internetIP+"/24")
	w.vpcSwitch.Plug(h, "eth1", vpcIP+"/24", vpcIP6.String()+"/64")
	for _, a := range w.advertised {
		if a.Addr().Is4() {
			h.IP("route", "add", a.String(), "via", gatewayVPC)
		}
	}
	h.IP("route", "add", w.cidr6.String(), "via", w.gw6.String())
	h.Address("lo", metadataIP+"/32")
	// As container runtimes set it, so that ICMP needs no capability.
	h.Sysctl("net.ipv4.ping_group_range", "0 2147483647")
}

// startControl starts tailnettest's control server, or $HEADSCALE if it is set, and creates
// the keys.
func (w *world) startControl(o worldOptions) {
	w.t.Helper()
	p := o.policy
	if p.AutoApprovers == nil {
		p.AutoApprovers = map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges}
	}
	tailnettest.Isolate()
	if program := os.Getenv("HEADSCALE"); program != "" {
		if len(o.zones) > 0 {
			w.t.Skip("not on Headscale: the tests do not configure its DNS")
		}
		w.startHeadscale(program, p)
	} else {
		w.startTailnet(p, o)
	}
	w.routerKey = w.createKey(tailnettest.Key{Reusable: true, Ephemeral: true, Preauthorized: true, Tags: []string{tag}})
	w.clientKey = w.createKey(tailnettest.Key{Reusable: true, Preauthorized: true, Tags: []string{clientTag}})
}

func (w *world) startTailnet(p tailnettest.Policy, o worldOptions) {
	t := w.t
	t.Helper()
	cfg := tailnettest.Config{
		Host:   netip.MustParseAddr(selfIP),
		Policy: p,
		DNS:    tailnettest.SplitDNS(o.zones),
		Logger: slog.New(slog.NewTextHandler(testWriter{t, "control"}, nil)),
	}
	if o.certificates {
		w.authority = w.startAuthority()
		cfg.Domain, cfg.SetDNS = tailnetDomain, w.authority.setDNS
	}
	control, err := tailnettest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	w.control = control
}

func (w *world) startHeadscale(program string, p tailnettest.Policy) {
	t := w.t
	t.Helper()
	if p.ApproveWhen == tailnettest.WhenReachable || p.RequireDeviceApproval {
		t.Skip("not on Headscale: it approves routes as soon as they are advertised, and has no device approval")
	}
	control, err := tailnettest.StartHeadscale(tailnettest.HeadscaleConfig{
		Program:       program,
		Host:          netip.MustParseAddr(selfIP),
		AutoApprovers: p.AutoApprovers,
		Tags:          []string{clientTag},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output of headscale:\n%s", control.Log())
		}
		control.Close()
	})
	w.control = control
}

// testControl returns the control server if it is tailnettest's, which has more methods than
// a [tailnettest.Control].
func (w *world) testControl() (control *tailnettest.Tailnet, ok bool) {
	control, ok = w.control.(*tailnettest.Tailnet)
	return control, ok
}

func (w *world) createKey(k tailnettest.Key) secret.String {
	w.t.Helper()
	value, err := w.control.CreateKey(w.t.Context(), k)
	if err != nil {
		w.t.Fatal(err)
	}
	return value
}

func (w *world) startMetadata(change func(*awstest.Task)) {
	w.metadata = w.startMetadataAt(w.routerHost, change)
}

// startMetadataAt serves the metadata of a task on a host, with the interface of the router's.
func (w *world) startMetadataAt(h *netnstest.Host, change func(*awstest.Task)) (metadata *awstest.Metadata) {
	t := w.t
	task := awstest.Task{
		LaunchType: "FARGATE", Family: "Edge_Router", MemoryMiB: 512, CPU: 0.25,
		MAC: w.routerMAC, IPv4: []netip.Addr{netip.MustParseAddr(routerVPC)}, IPv4Subnet: netip.MustParsePrefix("10.0.1.0/24"),
		IPv6: []netip.Addr{w.router6}, IPv6Subnet: netip.PrefixFrom(w.gw6, 64).Masked(),
	}
	if change != nil {
		change(&task)
	}
	err := h.Do(func() (err error) {
		metadata, err = awstest.NewMetadata(metadataIP+":80", task)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { metadata.Close() })
	return metadata
}

// await waits until cond accepts the nodes at control.
func (w *world) await(name string, cond func([]tailnettest.Node) bool) {
	w.t.Helper()
	if err := w.control.Await(testwait.Context(w.t), name, cond); err != nil {
		w.t.Fatal(err)
	}
}
