package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestEgress connects from a host of the VPC into the tailnet in each way, and from the tailnet to the listeners, which
// must fail.
func TestEgress(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) { testEgress(t, mode) })
	}
}

func testEgress(t *testing.T, mode string) {
	const (
		proxyAt = routerVPC + ":1080"
		portAt  = routerVPC + ":8081"
		udpAt   = routerVPC + ":5353"
		behind  = "10.77.0.5" // the client is a subnet router of this address
	)
	w := newWorld(t, worldOptions{policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{
		tag: approvedRanges, clientTag: {netip.MustParsePrefix("10.77.0.0/24")},
	}}})
	env := map[string]string{
		"ROUTER_MODE": mode, "ROUTER_SOCKS5_LISTEN": "0.0.0.0:1080", "ROUTER_HTTP_PROXY_LISTEN": "0.0.0.0:1080",
		"ROUTER_EGRESS": "0.0.0.0:8081=laptop:8080,0.0.0.0:5353/udp=laptop:53,8082=laptop:8080", "ROUTER_DRAIN_TIMEOUT": "30s",
		"TS_EXTRA_ARGS": "--accept-routes",
	}
	if mode == "userspace" {
		env["ROUTER_FLOW_LOG"] = "on"
	}
	r := w.startRouter(routerOptions{root: mode == "kernel", env: env})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	addresses := map[string][]netip.Addr{}
	w.await("the addresses", func(nodes []tailnettest.Node) bool {
		for _, name := range []string{"laptop", "edge-router"} {
			n, _ := tailnettest.Find(nodes, name)
			addresses[name] = n.IPs
		}
		return len(addresses["laptop"]) == 2 && len(addresses["edge-router"]) == 2
	})
	laptop, router := addresses["laptop"], addresses["edge-router"]
	w.client.Address("lo", behind+"/32")
	c.tailscale("set", "--advertise-routes=10.77.0.0/24")
	w.serveLaptop(append(laptop, netip.MustParseAddr(behind)))

	// curl runs on a host of the VPC.
	curl := func(args ...string) (string, error) {
		var out, trouble bytes.Buffer
		cmd := w.vpc.Command(testwait.Context(t), "curl", append([]string{"-gsS", "--max-time", "20", "--noproxy", ""}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &trouble
		if err := cmd.Run(); err != nil {
			return out.String(), fmt.Errorf("curl %v: %w: %s", args, err, trouble.String())
		}
		return out.String(), nil
	}
	ways := map[string][]string{
		"SOCKS5":  {"--proxy", "socks5h://" + proxyAt},
		"HTTP":    {"--proxy", "http://" + proxyAt},
		"CONNECT": {"--proxy", "http://" + proxyAt, "--proxytunnel"},
	}
	want := "hello " + mode
	for name, way := range ways {
		for _, host := range []string{"laptop", laptop[0].String(), "[" + laptop[1].String() + "]", behind} {
			testwait.Until(t, name+" to "+host, func() error {
				got, err := curl(append(way, "-H", "X-Mode: "+mode, "http://"+host+":8080/")...)
				if err == nil && got != want {
					err = fmt.Errorf("%q, want %q", got, want)
				}
				return err
			})
		}
		if sum, err := curl(append(way, "http://laptop:8080/data")...); err != nil || sumOf([]byte(sum)) != sumOf(testData(egressSize)) {
			t.Errorf("%s: %d bytes of a download, %v", name, len(sum), err)
		}
		for target, code := range map[string]string{
			dbHost + ":80": "403", metadataIP + ":80": "403", router[0].String() + ":9002": "403", "edge-router:9002": "403", laptop[0].String() + ":81": "502", "127.0.0.1:9002": "403",
		} {
			if name != "HTTP" {
				if out, err := curl(append(way, "http://"+target+"/")...); err == nil {
					t.Errorf("%s reached %s: %q", name, target, out)
				}
				continue
			}
			if out, err := curl(append(way, "-o", "/dev/null", "-w", "%{http_code}", "http://"+target+"/")...); err != nil || out != code {
				t.Errorf("%s to %s: HTTP %s, %v, want %s", name, target, out, err, code)
			}
		}
	}
	if got, err := curl("-H", "X-Mode: "+mode, "http://"+portAt+"/"); err != nil || got != want {
		t.Errorf("a forwarded port: %q, %v", got, err)
	}
	if _, err := curl("http://" + routerVPC + ":8082/"); err == nil {
		t.Error("a port of the loopback address is open to the VPC")
	}
	if err := w.askVPC(t.Context(), udpAt, nil, "question"); err != nil {
		t.Errorf("a forwarded UDP port: %v", err)
	}
	w.associate(proxyAt, "laptop")
	if e := r.status().Egress; e == nil || e.Connections.Limit == 0 ||
		!slices.ContainsFunc(e.Targets, func(t ops.EgressTarget) bool {
			return t.Target == "laptop:8080" && t.Opened > 0 && t.ToVPCBytes > egressSize
		}) {
		t.Errorf("the status of connections into the tailnet is %+v", e)
	}

	// The listeners are closed to the tailnet, at each address.
	for _, host := range append(w.addressesOf(5)[:2], router[0].String(), router[1].String()) {
		for _, port := range []string{"1080", "8081", "8082"} {
			if w.reachesTCP(net.JoinHostPort(host, port)) {
				t.Errorf("a client of the tailnet reached %s:%s", host, port)
			}
		}
	}
	before := r.deniedPackets()
	if conn, err := w.client.Dial(t.Context(), "udp", udpAt); err == nil {
		conn.Write([]byte("question"))
		conn.Close()
		testwait.Until(t, "the datagram to be denied", func() error {
			if r.deniedPackets() == before {
				return fmt.Errorf("%v denied packets", before)
			}
			return nil
		})
	}

	_, body := r.get("/metrics")
	for _, line := range []string{
		`router_egress_flows_opened_total{protocol="tcp",target="laptop:8080"} `, `router_egress_flows_opened_total{protocol="udp",target="laptop:53"} `,
		`router_egress_bytes_total{direction="to_vpc",target="laptop:8080"} `, `router_egress_failures_total{protocol="tcp",reason="forbidden"} `,
	} {
		if _, rest, ok := strings.Cut(body, line); !ok || strings.HasPrefix(rest, "0\n") {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	if mode == "userspace" {
		r.awaitLog(`"msg":"flow","protocol":"udp","direction":"to_tailnet","listener":"socks5"`)
		for text := range strings.Lines(r.out.String()) {
			var line struct{ Msg, Direction, Target, Address, Node, Client string }
			if json.Unmarshal([]byte(text), &line) == nil && line.Direction == "to_tailnet" && line.Target == "laptop:8080" {
				if line.Node != "laptop" || line.Address != laptop[0].String()+":8080" || !strings.HasPrefix(line.Client, gatewayVPC+":") {
					t.Errorf("the flow log has %s", text)
				}
				break
			}
		}
	}

	// A drain refuses new connections and serves open ones to the end.
	slow := w.startDownload(w.vpc, "--proxy", "socks5h://"+proxyAt, "http://laptop:8080/data")
	testwait.Until(t, "the download", func() error {
		if n := r.metric("router_egress_connections"); n != 1 {
			return fmt.Errorf("%v connections", n)
		}
		return nil
	})
	r.cmd.Process.Signal(syscall.SIGTERM)
	r.awaitLog(`"msg":"draining"`)
	if _, err := curl("http://" + portAt + "/"); err == nil {
		t.Error("a new connection was served during the drain")
	}
	if err := slow.wait(); err != nil {
		t.Errorf("the download during the drain: %v", err)
	}
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	if strings.Contains(r.out.String(), "connections into the tailnet cut") {
		t.Error("the router cut a connection")
	}
}

// egressSize is the size of a download from the client, in bytes.
const egressSize = 8 << 20

// serveLaptop serves HTTP and UDP at the client's addresses in the tailnet.
func (w *world) serveLaptop(addresses []netip.Addr) {
	w.t.Helper()
	for _, a := range addresses {
		ln, err := w.client.Listen("tcp", netip.AddrPortFrom(a, 8080).String())
		if err != nil {
			w.t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/data" {
				rw.Write(testData(egressSize))
				return
			}
			fmt.Fprint(rw, "hello "+r.Header.Get("X-Mode"))
		})}
		go srv.Serve(ln)
		w.t.Cleanup(func() { srv.Close() })
		c, err := w.client.ListenPacket("udp", netip.AddrPortFrom(a, 53).String())
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 2000)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo(buf[:n], from)
			}
		}()
	}
}

// askVPC sends a datagram from a host of the VPC until it is answered. Header is in front of question and answer.
func (w *world) askVPC(ctx context.Context, address string, header []byte, question string) error {
	conn, err := w.vpc.Dial(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 2000)
	for range 5 {
		if _, err = conn.Write(append(header, question...)); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		var n int
		if n, err = conn.Read(buf); err == nil {
			if !bytes.HasSuffix(buf[:n], []byte(question)) {
				return fmt.Errorf("the answer %q", buf[:n])
			}
			return nil
		}
	}
	return err
}

// associate exchanges a datagram by way of a UDP association, from a host of the VPC.
func (w *world) associate(proxy, name string) {
	w.t.Helper()
	control, err := w.vpc.Dial(w.t.Context(), "tcp", proxy)
	if err != nil {
		w.t.Fatal(err)
	}
	defer control.Close()
	control.SetDeadline(time.Now().Add(testwait.Limit()))
	control.Write([]byte("\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00"))
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || answer[3] != 0 {
		w.t.Fatalf("the association: %v, %v", answer, err)
	}
	if at := netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[6:10])), uint16(answer[10])<<8|uint16(answer[11])).String(); at != proxy {
		w.t.Errorf("the association is at %s, want %s", at, proxy)
	}
	header := append([]byte{0, 0, 0, 3, byte(len(name))}, name...)
	if err := w.askVPC(w.t.Context(), proxy, append(header, 0, 53), "question"); err != nil {
		w.t.Errorf("a UDP association: %v", err)
	}
}
