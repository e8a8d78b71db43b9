package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/tailnettest"
)

// subject is a way to get packets from the client to the VPC.
type subject struct {
	name   string
	kernel bool // forwards in the kernel
	// start is nil for kernel routing without a VPN.
	start func(w *world, r *running, t trial) (*exec.Cmd, error)
	bbr   bool // client and servers use bbr in place of cubic, in group wan
	// limits are the subject's own, as of a task of Fargate; zero: those of -cgroup.
	limits limits
}

// plain is kernel routing without a VPN, an upper bound for the other subjects.
const plain = "plain"

// plainBBR is plain with Linux's bbr (version 1) at both ends of a connection.
const plainBBR = "plain-bbr"

// oursDNS answers the queries for the VPC's resolver itself: the host that the load asks. It is measured
// only if -group is dns alone, or -subjects names it.
const oursDNS = "ours-dns"

var subjects = []subject{
	{name: "ours-userspace", start: ours("userspace", "router")},
	{name: "stock-userspace", start: stock("true", "")},
	{name: "ours-kernel", kernel: true, start: ours("kernel", "router")},
	{name: "stock-kernel", kernel: true, start: stock("false", "")},
	{name: plain, kernel: true},
	{name: plainBBR, kernel: true, bbr: true},
	{name: oursDNS, start: ours("userspace", "router", "ROUTER_DNS=on")},
	{name: oursReport, start: ours("userspace", "router", "ROUTER_ACCESS=report")},
	{name: oursGrants, start: ours("userspace", "router", "ROUTER_ACCESS=grants")},
}

// subjectsOf returns the subjects that a group can measure.
func subjectsOf(sizing bool) []subject {
	if sizing {
		return sizingSubjects()
	}
	return subjects
}

// defaultSubjects returns the subjects that are measured without -subjects.
func defaultSubjects(of []subject, groups []string) (names []string) {
	alone := func(group string) bool { return slices.Equal(groups, []string{group}) }
	wan, access := alone(wanGroup), alone(accessGroup)
	for _, s := range of {
		decides := s.name == oursReport || s.name == oursGrants
		switch {
		case s.name == oursDNS && !alone(dnsGroup), s.name == plainBBR && !wan:
		case wan && s.name == "ours-kernel": // kernel mode is an upper bound there that does not depend on whose it is
		case access != decides && (decides || s.name != "ours-userspace"):
		case alone(proxyGroup) && s.kernel:
		default:
			names = append(names, s.name)
		}
	}
	return names
}

// againstSubject is the router of -against.
const againstSubject = "against-userspace"

// otherStock is the subject of -stock, and the folder of its programs.
const otherStock = "stock-other"

// pair names two subjects whose ratio is a column of the table: ours divided by stock.
type pair struct{ name, ours, stock string }

func (p pair) title() string {
	switch p.stock {
	case againstSubject:
		return "ours/against"
	case otherStock:
		return "ours/" + otherStock
	case "ours-userspace":
		return p.ours + "/" + p.stock
	}
	return "ours/stock, " + p.name
}

var pairs = []pair{
	{"userspace", "ours-userspace", "stock-userspace"},
	{"kernel", "ours-kernel", "stock-kernel"},
	{"against", "ours-userspace", againstSubject},
	{"other", "ours-userspace", otherStock},
	{"DNS", oursDNS, "ours-userspace"},
	{"report", oursReport, "ours-userspace"},
	{"grants", oursGrants, "ours-userspace"},
}

// systemPath is the PATH of a container; setpriv, iptables and ping are in it.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ours returns a function that builds the router's command as shipped: in userspace mode
// with the image's user and without capabilities, as on Fargate.
func ours(mode, program string, more ...string) func(*world, *running, trial) (*exec.Cmd, error) {
	return func(w *world, r *running, t trial) (*exec.Cmd, error) {
		env := append(tailnettest.Env(),
			"PATH="+systemPath,
			"ROUTER_CONTROL_URL="+w.control.ControlURL(),
			"ROUTER_HOSTNAME="+r.name,
			"ROUTER_MODE="+mode,
			"ROUTER_SOCKET="+filepath.Join(r.dir, "router.sock"),
			"ROUTER_DRAIN_TIMEOUT=1s",
		)
		env = append(env, more...)
		if t.proxies {
			env = append(env, "ROUTER_SOCKS5_LISTEN="+r.socks5(), "ROUTER_HTTP_PROXY_LISTEN="+r.httpProxy())
		}
		if mode == "userspace" {
			// All load comes from one client, which by default may have a share only.
			if r.subject.limits == (limits{}) {
				env = append(env, "ROUTER_MAX_FLOWS=18000", "ROUTER_MAX_FLOWS_PER_PEER=18000")
			} else { // the default of all flows, which depends on memory
				env = append(env, "ROUTER_MAX_FLOWS_PER_PEER=100000")
			}
		}
		if t.withAWS || r.limited.memoryMiB > 0 || len(more) > 0 {
			// The router reads its limits from task metadata: the cgroup is not visible here.
			metadata, err := w.startMetadata(r)
			if err != nil {
				return nil, err
			}
			env = append(env, "ECS_CONTAINER_METADATA_URI_V4="+metadata.URI())
		}
		if t.withAWS {
			env = append(env,
				"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/role",
				"AWS_REGION="+region,
				"AWS_ENDPOINT_URL="+w.aws.URL(),
				"ROUTER_AUTH_SECRET="+secretName,
			)
		} else {
			env = append(env, "TS_AUTHKEY="+routerKey, "ROUTER_ROUTES="+vpcCIDR.String())
		}
		args := []string{w.binary(program)}
		if mode == "userspace" {
			args = append([]string{"setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, args...)
		}
		return w.command(r.host, env, args...), nil
	}
}

// containerCapabilities are those of root in a container of Docker and ECS by default.
const containerCapabilities = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"

// stock returns a function that builds the official image's command: containerboot, which
// starts tailscaled and runs tailscale, with state in memory and, in userspace mode, as
// root with a container's capabilities. The folder is one of the world's programs.
func stock(userspace, folder string) func(*world, *running, trial) (*exec.Cmd, error) {
	return func(w *world, r *running, t trial) (*exec.Cmd, error) {
		env := append(tailnettest.Env(),
			"PATH="+w.binary(folder)+":"+systemPath,
			"TS_USERSPACE="+userspace,
			"TS_AUTHKEY="+routerKey,
			"TS_ROUTES="+vpcCIDR.String(),
			"TS_HOSTNAME="+r.name,
			"TS_EXTRA_ARGS=--login-server="+w.control.ControlURL(),
			"TS_SOCKET="+filepath.Join(r.dir, "tailscaled.sock"),
			// The image uses /tmp, which all namespaces here share.
			"TS_TAILSCALED_EXTRA_ARGS=--statedir="+r.dir,
		)
		if t.proxies {
			env = append(env, "TS_SOCKS5_SERVER="+r.socks5(), "TS_OUTBOUND_HTTP_PROXY_LISTEN="+r.httpProxy())
		}
		args := []string{w.binary(filepath.Join(folder, "containerboot"))}
		if userspace == "true" {
			args = append([]string{"setpriv", "--inh-caps=-all", "--bounding-set=" + containerCapabilities}, args...)
		}
		return w.command(r.host, env, args...), nil
	}
}

// command returns a command in the host's namespace with exactly this environment.
func (w *world) command(h *netnstest.Host, env []string, args ...string) *exec.Cmd {
	// Its scope kills it with its descendants; a context would kill only the command.
	cmd := h.Command(w.scope.detached(), args[0], args[1:]...)
	cmd.Env = env
	return cmd
}

func (w *world) startMetadata(r *running) (m *awstest.Metadata, err error) {
	r.host.Address("lo", metadataIP+"/32")
	err = r.host.Do(func() error {
		m, err = awstest.NewMetadata(metadataIP+":80", awstest.Task{
			Region: region, Family: "bench", CPU: r.limited.cpus, MemoryMiB: r.limited.memoryMiB, MAC: routerMAC,
			DNS: []netip.Addr{vpcHost}, IPv4: []netip.Addr{r.vpcIP}, IPv4Subnet: netip.PrefixFrom(r.vpcIP, 24).Masked(),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	r.scope.Cleanup(func() { m.Close() })
	return m, nil
}

// routePlainly turns the host into a router without a VPN.
func (w *world) routePlainly(r *running) error {
	r.host.Sysctl("net.ipv4.ip_forward", "1")
	w.client.IP("route", "replace", vpcCIDR.String(), "via", r.internetIP.String())
	r.scope.Cleanup(func() { exec.Command("ip", "-n", w.clientNS, "route", "delete", vpcCIDR.String()).Run() })
	w.vpc.IP("route", "replace", internetCIDR.String(), "via", r.vpcIP.String())
	return nil
}

// sharedDir creates a folder that an unprivileged router can write to.
func sharedDir(s *scope) (string, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return "", err
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir, os.Chmod(dir, 0o777)
}
