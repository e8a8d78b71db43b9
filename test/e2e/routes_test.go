package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

const (
	laterHost    = "10.9.0.7" // in a CIDR that is added to the VPC and removed
	resolverHost = "10.0.0.2" // address of the VPC's resolver, as in AWS
)

// longestStall bounds the stall of a stream when routes change. A lost packet costs a TCP
// sender a fifth of a second, a new WireGuard handshake five seconds.
const longestStall = 2 * time.Second

// TestRoutesFollowTheVPC adds a CIDR to the VPC and removes it, and makes EC2 fail, while a
// client streams through another CIDR. It then queries the VPC's resolver.
func TestRoutesFollowTheVPC(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{
				policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: {netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2000::/3")}}},
				task:   func(task *awstest.Task) { task.DNS = []netip.Addr{netip.MustParseAddr(resolverHost)} },
			})
			w.vpc.Address("lo", laterHost+"/32")
			w.serveHTTP(laterHost)
			w.routerHost.IP("route", "add", "10.9.0.0/16", "via", gatewayVPC)
			w.serveEchoTCP(net.JoinHostPort(dbHost, "7"))
			w.startResolver()
			aws := must(awstest.NewServer(selfIP+":0", w.aws))
			t.Cleanup(func() { aws.Close() })

			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"AWS_ENDPOINT_URL": aws.URL(), "ROUTER_REFRESH": "1s",
			}})
			c := w.startClient()
			r.awaitReady()
			c.awaitRoute("10.0.0.0/16")
			stream := w.startStream(net.JoinHostPort(dbHost, "7"))

			had := w.aws.VPCs[0].CIDRs
			set := func(cidrs ...awstest.Association) {
				aws.Update(func(world *awstest.World) { world.VPCs = []awstest.VPC{{ID: w.aws.VPCs[0].ID, CIDRs: cidrs}} })
			}
			later := awstest.Association{ID: "vpc-cidr-assoc-later", Prefix: netip.MustParsePrefix("10.9.0.0/16")}
			gained := time.Now()
			set(append(slices.Clone(had), later)...)
			c.awaitRoute("10.9.0.0/16")
			if out, code := c.sh("curl", "-sS", "--max-time", "10", "http://"+laterHost+"/"); code != 0 || !strings.HasPrefix(out, "hello from "+laterHost) {
				t.Errorf("curl of the new CIDR: exit %d: %s", code, out)
			}
			t.Logf("a new CIDR is reached after %v", time.Since(gained).Round(time.Millisecond))
			r.awaitLog(`"msg":"route added","prefix":"10.9.0.0/16","source":"vpc ` + w.aws.VPCs[0].ID + ` (vpc-cidr-assoc-later)"`)

			t.Run("EC2 fails", func(t *testing.T) {
				aws.Fail("ec2:DescribeVpcs", awstest.Throttled())
				set(had...) // the router cannot notice it
				r.awaitLog("looking up routes failed; keeping the advertised routes")
				s := r.status()
				if !strings.Contains(s.RoutesError, "RequestLimitExceeded") || !slices.ContainsFunc(s.Routes, func(r ops.RouteStatus) bool { return r.Prefix == "10.9.0.0/16" && r.Primary }) {
					t.Errorf("/status has %q, %+v", s.RoutesError, s.Routes)
				}
				if _, metrics := r.get("/metrics"); strings.Contains(metrics, `router_aws_call_failures_total{action="ec2:DescribeVpcs"} 0`) ||
					!strings.Contains(metrics, `router_aws_call_failures_total{action="ec2:DescribeNetworkInterfaces"} 0`) {
					t.Error("the metrics do not name the failing call")
				}
				c.awaitRoute("10.9.0.0/16")
				aws.Fail("ec2:DescribeVpcs", awstest.Failure{})
				r.awaitLog("looking up routes works again")
			})

			c.awaitNoRoute("10.9.0.0/16")
			r.awaitLog(`"msg":"route missing; kept until the next look-up misses it, too","prefix":"10.9.0.0/16"`)
			r.awaitLog(`"msg":"route removed","prefix":"10.9.0.0/16"`)
			c.awaitRoute("10.0.0.0/16")
			if rounds, stall, err := stream.stop(); err != nil || stall > longestStall || rounds == 0 {
				t.Errorf("the stream: %d rounds, longest stall %v, %v", rounds, stall, err)
			} else {
				t.Logf("the stream: %d rounds, longest stall %v", rounds, stall.Round(time.Millisecond))
			}

			t.Run("resolver", func(t *testing.T) {
				out, code := r.run("router", "plan", "--json")
				var p struct{ DNS *ops.DNS }
				if err := json.Unmarshal([]byte(out), &p); code != 0 || err != nil || p.DNS == nil {
					t.Fatalf("router plan --json: exit %d, %v: %s", code, err, out)
				}
				if s := r.status(); s.DNS == nil || !reflect.DeepEqual(s.DNS, p.DNS) || p.DNS.Route != "10.0.0.0/16" {
					t.Errorf("router plan prints %+v, /status has %+v", p.DNS, s.DNS)
				}
				for _, how := range []string{"+notcp", "+tcp"} {
					out, code := c.sh("dig", "@"+p.DNS.Nameserver, "db.internal.example.com", "+short", "+tries=3", "+time=5", how)
					if strings.TrimSpace(out) != dbHost || code != 0 {
						t.Errorf("dig %s: exit %d: %s", how, code, out)
					}
				}
			})
		})
	}
}

// TestSameCIDRSideBySide: one client reaches two VPCs with the same addresses at the same
// time.
func TestSameCIDRSideBySide(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{
				AutoApprovers: map[string][]netip.Prefix{tag: {netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64")}},
			}})
			other := w.sameAddressVPC("192.168.77.31", "10.0.1.6")
			sites := []struct {
				w    *world
				id   string
				host string // dbHost by 4via6
				own  string // the router's address in its VPC
			}{
				{w, "7", "fd7a:115c:a1e0:b1a:0:7:a00:304", routerVPC},
				{other, "8", "fd7a:115c:a1e0:b1a:0:8:a00:304", "10.0.1.6"},
			}
			for _, s := range sites {
				s.w.serveUDP(net.JoinHostPort(dbHost, "9"), func([]byte) []byte { return []byte("site " + s.id) })
				aws := must(awstest.NewServer(selfIP+":0", awstest.World{
					Secrets:    w.aws.Secrets,
					VPCs:       []awstest.VPC{{ID: "vpc-" + s.id, CIDRs: []awstest.Association{{ID: "assoc-" + s.id, Prefix: netip.MustParsePrefix("10.0.0.0/16")}}}},
					Interfaces: []awstest.Interface{{ID: "eni-" + s.id, MAC: w.routerMAC, VPCID: "vpc-" + s.id, SubnetID: "subnet-" + s.id}},
				}))
				t.Cleanup(func() { aws.Close() })
				r := s.w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
					"AWS_ENDPOINT_URL": aws.URL(), "ROUTER_SITE_ID": s.id, "ROUTER_HOSTNAME": "site-" + s.id,
				}})
				r.awaitReady()
				if out, code := r.run("router", "plan"); code != 0 || !strings.Contains(out, "10.0.3.4 is 10-0-3-4-via-"+s.id+" ("+s.host+")") {
					t.Errorf("router plan: exit %d: %s", code, out)
				}
			}
			c := w.startClient()
			for _, s := range sites {
				c.awaitRoute("fd7a:115c:a1e0:b1a:0:" + s.id + ":a00:0/112")
			}

			var wg sync.WaitGroup
			for _, s := range sites { // concurrently
				wg.Go(func() {
					if out, code := c.sh("curl", "-sS", "--max-time", "10", "http://["+s.host+"]/"); code != 0 || out != fmt.Sprintf("hello from %s to %s\n", dbHost, s.own) {
						t.Errorf("TCP to site %s: exit %d: %s", s.id, code, out)
					}
				})
				wg.Go(func() {
					if got, err := w.askUDP(net.JoinHostPort(s.host, "9")); err != nil || got != "site "+s.id {
						t.Errorf("UDP to site %s: %q, %v", s.id, got, err)
					}
				})
				wg.Go(func() {
					if out, code := c.sh("ping", "-n", "-c", "2", "-W", "5", s.host); code != 0 {
						t.Errorf("ping of site %s: exit %d: %s", s.id, code, out)
					}
				})
			}
			wg.Wait()

			// The sites are independent: without its host, site 8 does not answer.
			other.vpc.IP("address", "del", dbHost+"/32", "dev", "lo")
			if out, code := c.sh("ping", "-n", "-c", "1", "-W", "2", sites[1].host); code == 0 {
				t.Errorf("site 8 answers without a host: %s", out)
			}
			if out, code := c.sh("ping", "-n", "-c", "1", "-W", "5", sites[0].host); code != 0 {
				t.Errorf("site 7 no longer answers: %s", out)
			}
		})
	}
}

// sameAddressVPC creates another VPC with the same addresses in the same tailnet, and a host for a
// router in it.
func (w *world) sameAddressVPC(internetIP, vpcIP string) *world {
	o := *w
	o.vpcSwitch, o.vpc, o.routerHost = w.net.Switch("vpcnet2"), w.net.Host("vpc2"), w.net.Host("router2")
	o.plugRouter(o.routerHost, internetIP, vpcIP, o.router6)
	o.startVPC()
	o.startMetadata(func(task *awstest.Task) { task.IPv4 = []netip.Addr{netip.MustParseAddr(vpcIP)} })
	return &o
}

// startResolver runs dnsmasq with a private zone at the address of the VPC's resolver.
func (w *world) startResolver() *process { return w.startZone("internal.example.com") }

// startZone runs dnsmasq at the address of the VPC's resolver. It has the zone's name db, and the same
// address for each other name.
func (w *world) startZone(zone string) *process {
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		skipOrFail(w.t, "the VPC's resolver needs dnsmasq")
	}
	if w.resolver == nil {
		w.vpc.Address("lo", resolverHost+"/32")
	}
	w.resolver = start(w.t, "dnsmasq", w.vpc.Command(context.WithoutCancel(w.t.Context()), "dnsmasq",
		"--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--bind-interfaces",
		"--listen-address="+resolverHost, "--local-ttl=60", "--local=/"+zone+"/", "--address=/"+zone+"/"+dbHost, "--host-record=db."+zone+","+dbHost))
	return w.resolver
}

func (w *world) serveEchoTCP(address string) {
	ln, err := w.vpc.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					conn.Write(buf[:n])
				}
			}()
		}
	}()
}

// stream is a connection with an echo server, on which the client sends one word at a time.
type stream struct {
	end    chan struct{}
	done   chan struct{}
	rounds int
	stall  time.Duration // the longest round
	err    error
}

func (w *world) startStream(address string) *stream {
	conn, err := w.client.Dial(w.t.Context(), "tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &stream{end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer conn.Close()
		buf := make([]byte, 16)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.end:
				return
			case <-tick.C:
			}
			began := time.Now()
			conn.SetDeadline(began.Add(testwait.Limit()))
			word := fmt.Sprintf("%08d", s.rounds)
			if _, s.err = conn.Write([]byte(word)); s.err != nil {
				return
			}
			var n int
			if n, s.err = conn.Read(buf); s.err != nil {
				return
			}
			if string(buf[:n]) != word {
				s.err = fmt.Errorf("sent %s, got back %s", word, buf[:n])
				return
			}
			s.rounds++
			s.stall = max(s.stall, time.Since(began))
		}
	}()
	return s
}

func (s *stream) stop() (rounds int, stall time.Duration, err error) {
	close(s.end)
	<-s.done
	return s.rounds, s.stall, s.err
}

// askUDP sends datagrams until an answer arrives: the WireGuard tunnel may not be established
// for the first ones.
func (w *world) askUDP(address string) (string, error) {
	conn, err := w.client.Dial(w.t.Context(), "udp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	buf := make([]byte, 100)
	for range 10 {
		conn.Write([]byte("who are you?"))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		var n int
		if n, err = conn.Read(buf); err == nil {
			return string(buf[:n]), nil
		}
	}
	return "", err
}

func (r *router) status() (s ops.Status) {
	r.t.Helper()
	_, body := r.get("/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		r.t.Fatalf("reading /status: %v: %s", err, body)
	}
	return s
}
