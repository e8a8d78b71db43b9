package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"github.com/coder/websocket"
)

// lossyLine is a line of a home: 40 ms, 100 Mbit/s, 1 % of packets lost in each direction, and some
// late or twice.
var lossyLine = netnstest.DirectionOptions{
	Delay: 20 * time.Millisecond, Rate: 100e6, Loss: 0.01, Reorder: 0.005, ReorderBy: 3 * time.Millisecond, Duplicate: 0.002, Seed: 7,
}

// programSize is the size of a program's transfer, in bytes. Cubic, the client's, sends some 2 Mbit/s
// over such a line.
const programSize = 1 << 20

// programs is a world with a router, whose client and servers run programs that people use.
type programs struct {
	*world
	router *router
	client *client
	dir    string // of files of both sides, with random names
}

func newPrograms(t *testing.T, o worldOptions) *programs {
	t.Helper()
	w := newWorld(t, o)
	r := w.startRouter(routerOptions{})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	return &programs{world: w, router: r, client: c, dir: w.sharedDir()}
}

// TestPrograms runs common programs through the router over a lossy line, and compares what arrives
// with what was sent.
func TestPrograms(t *testing.T) {
	p := newPrograms(t, worldOptions{wire: &lossyLine})
	t.Run("PostgreSQL", p.postgres)
	t.Run("SSH", p.ssh)
	t.Run("Redis", p.redis)
	t.Run("HTTP", func(t *testing.T) { p.https(t, 2*programSize) })
	t.Run("WebSocket", p.websocket)
	t.Run("changes of the path", p.changes)
}

// TestProgramsByDERP does without UDP at the client: all its packets go by way of DERP.
func TestProgramsByDERP(t *testing.T) {
	p := newPrograms(t, worldOptions{wire: &netnstest.DirectionOptions{Delay: 20 * time.Millisecond, Rate: 100e6, Loss: 0.001, Seed: 7}})
	for _, rule := range [][]string{{"OUTPUT", "-o"}, {"INPUT", "-i"}} {
		if out, code := p.client.sh("iptables", "-A", rule[0], rule[1], "eth0", "-p", "udp", "-j", "DROP"); code != 0 {
			t.Fatalf("blocking UDP: %s", out)
		}
	}
	p.https(t, programSize)
	if n := p.router.metric(`router_peers{path="derp"}`); n != 1 {
		t.Errorf("%v peers are reached by DERP, want 1", n)
	}
}

// TestDeployDuringLossyTransfers stops a router in the middle of transfers over a lossy line.
func TestDeployDuringLossyTransfers(t *testing.T) {
	w, old, _ := twoRoutersIn(newWorld(t, worldOptions{
		policy: tailnettest.Policy{Failover: time.Second}, wire: &lossyLine,
	}), map[string]string{"ROUTER_DRAIN_TIMEOUT": "60s"}, sameKey)
	address, roots := w.serveTLS(t, 16*programSize)
	fetch := w.client.Command(testwait.Context(t), "curl", "-sS", "--limit-rate", "3M", "--cacert", roots, "https://"+address+"/")
	var body, trouble bytes.Buffer
	fetch.Stdout, fetch.Stderr = &body, &trouble
	if err := fetch.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	if err := fetch.Wait(); err != nil {
		t.Errorf("the download: %v: %s", err, trouble.String())
	}
	if got, want := sumOf(body.Bytes()), sumOf(testData(16*programSize)); got != want {
		t.Errorf("the download has hash %s and %d bytes, want %s", got, body.Len(), want)
	}
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
}

// testData returns bytes that do not repeat, and are the same in each run.
func testData(n int) []byte {
	b := make([]byte, 0, n+32)
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256([]byte(strconv.Itoa(i)))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// file creates a file that every user may read, and returns its path.
func (p *programs) file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// same fails the test if a file does not have the content.
func same(t *testing.T, name, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	} else if sumOf(got) != sumOf(want) {
		t.Errorf("%s: %d bytes with hash %s, want %d with %s", name, len(got), sumOf(got), len(want), sumOf(want))
	}
}

// run runs a program on the client's machine, and fails the test unless it succeeds.
func (p *programs) run(t *testing.T, name string, args ...string) (out string) {
	t.Helper()
	b, err := p.world.client.Command(testwait.Context(t), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, b)
	}
	return string(b)
}

// serve starts a server's program in the VPC, and waits until a port is open.
func (p *programs) serve(t *testing.T, port string, name string, args ...string) {
	t.Helper()
	cmd := p.vpc.Command(context.WithoutCancel(t.Context()), name, args...)
	start(t, filepath.Base(name), cmd)
	testwait.Until(t, name, func() error {
		c, err := p.vpc.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, port))
		if err == nil {
			c.Close()
		}
		return err
	})
}

// needed returns the path of a program, or ends the test.
func needed(t *testing.T, name string, folders ...string) string {
	t.Helper()
	for _, dir := range folders {
		if found, _ := filepath.Glob(filepath.Join(dir, name)); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		skipOrFail(t, "no "+name+" on this machine: run make tools")
	}
	return path
}

// servePostgres starts a server in the VPC, and returns the path of psql.
func (p *programs) servePostgres(t *testing.T) (psql string) {
	t.Helper()
	const folder = "/usr/lib/postgresql/*/bin"
	initdb, server, psql := needed(t, "initdb", folder), needed(t, "postgres", folder), needed(t, "psql", folder)
	// The server refuses to run as root.
	asNobody := []string{"--reuid=65534", "--regid=65534", "--clear-groups"}
	data := filepath.Join(p.dir, "postgres")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("setpriv", append(asNobody, initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8")...).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("host all all 0.0.0.0/0 trust\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.serve(t, "5432", "setpriv", append(asNobody, server, "-D", data, "-k", "", "-c", "listen_addresses="+dbHost, "-c", "fsync=off")...)
	return psql
}

func (p *programs) postgres(t *testing.T) {
	psql := p.servePostgres(t)
	sql := func(args ...string) []string {
		return append([]string{"-h", dbHost, "-U", "postgres", "-X", "-q", "-v", "ON_ERROR_STOP=1"}, args...)
	}

	var rows bytes.Buffer
	for i, text := 0, hex.EncodeToString(testData(programSize/2)); len(text) > 0; i++ {
		n := min(len(text), 100)
		fmt.Fprintf(&rows, "%d\t%s\n", i, text[:n])
		text = text[n:]
	}
	in, out := p.file(t, "rows.in", rows.Bytes()), filepath.Join(p.dir, "rows.out")
	p.run(t, psql, sql("-c", "create table t (i int primary key, s text)", "-c", `\copy t from '`+in+`'`)...)
	p.run(t, psql, sql("-c", `\copy (select * from t order by i) to '`+out+`'`)...)
	same(t, "COPY", out, rows.Bytes())

	sleeping := p.world.client.Command(testwait.Context(t), psql, sql("-c", "select pg_sleep(600)")...)
	var said bytes.Buffer
	sleeping.Stdout, sleeping.Stderr = &said, &said
	if err := sleeping.Start(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the query to run", func() error {
		if n := p.run(t, psql, sql("-At", "-c", "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'")...); strings.TrimSpace(n) != "1" {
			return fmt.Errorf("%s queries are active", n)
		}
		return nil
	})
	sleeping.Process.Signal(os.Interrupt)
	sleeping.Wait()
	if !strings.Contains(said.String(), "canceling statement due to user request") {
		t.Errorf("a canceled query: %s", said.String())
	}

	// An idle session gets a notification. SOAK lengthens the silence.
	silence := 5 * time.Second
	if d, err := time.ParseDuration(os.Getenv("SOAK")); err == nil {
		silence = d
	}
	listening := p.world.client.Command(t.Context(), psql, sql("-At")...)
	stdin, err := listening.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said.Reset()
	listening.Stdout, listening.Stderr = &said, &said
	if err := listening.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "listen news;\n")
	time.Sleep(silence)
	p.run(t, psql, sql("-c", "notify news, 'the word'")...)
	io.WriteString(stdin, "select 1;\n") // psql prints notifications after a statement
	stdin.Close()
	if err := listening.Wait(); err != nil || !strings.Contains(said.String(), "the word") {
		t.Errorf("LISTEN: %v: %s", err, said.String())
	}
}

func (p *programs) ssh(t *testing.T) {
	sshd, keygen := needed(t, "sshd", "/usr/sbin"), needed(t, "ssh-keygen")
	scp, ssh, rsync := needed(t, "scp"), needed(t, "ssh"), needed(t, "rsync")
	dir := filepath.Join(p.dir, "ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	authorized := filepath.Join(dir, "user.pub")
	config := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(config, []byte(strings.Join([]string{
		"Port 22", "ListenAddress " + dbHost, "HostKey " + filepath.Join(dir, "host"), "AuthorizedKeysFile " + authorized,
		"StrictModes no", "PermitRootLogin yes", "PasswordAuthentication no", "UsePAM no", "PidFile none",
		"Subsystem sftp internal-sftp",
	}, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // for privilege separation
		t.Fatal(err)
	}
	p.serve(t, "22", sshd, "-D", "-e", "-f", config)
	options := []string{"-F", "none", "-i", filepath.Join(dir, "user"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"}

	data := testData(programSize)
	in := p.file(t, "ssh.in", data)
	at := func(name string) string { return filepath.Join(p.dir, name) }
	p.run(t, scp, append(options, in, "root@"+dbHost+":"+at("scp.up"))...)
	same(t, "scp up", at("scp.up"), data)
	p.run(t, scp, append(options, "root@"+dbHost+":"+at("scp.up"), at("scp.down"))...)
	same(t, "scp down", at("scp.down"), data)
	shell := ssh + " " + strings.Join(options, " ")
	p.run(t, rsync, "-e", shell, in, "root@"+dbHost+":"+at("rsync.up"))
	same(t, "rsync up", at("rsync.up"), data)
	p.run(t, rsync, "-e", shell, "root@"+dbHost+":"+at("rsync.up"), at("rsync.down"))
	same(t, "rsync down", at("rsync.down"), data)
	if out := p.run(t, ssh, append(options, "root@"+dbHost, "echo out; echo err >&2; exit 0")...); out != "out\nerr\n" && out != "err\nout\n" {
		t.Errorf("ssh printed %q", out)
	}
}

func (p *programs) redis(t *testing.T) {
	server, cli := needed(t, "redis-server"), needed(t, "redis-cli")
	p.serve(t, "6379", server, "--bind", dbHost, "--protected-mode", "no", "--save", "", "--dir", p.dir)
	const keys = 20_000
	var commands bytes.Buffer
	for i := range keys {
		value := sumOf([]byte(strconv.Itoa(i)))
		fmt.Fprintf(&commands, "*3\r\n$3\r\nSET\r\n$%d\r\n%d\r\n$%d\r\n%s\r\n", len(strconv.Itoa(i)), i, len(value), value)
	}
	pipe := p.world.client.Command(testwait.Context(t), cli, "-h", dbHost, "--pipe")
	pipe.Stdin = &commands
	if out, err := pipe.CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprintf("errors: 0, replies: %d", keys)) {
		t.Fatalf("redis-cli --pipe: %v: %s", err, out)
	}
	for _, i := range []int{0, 1, keys / 2, keys - 1} {
		if got, want := strings.TrimSpace(p.run(t, cli, "-h", dbHost, "GET", strconv.Itoa(i))), sumOf([]byte(strconv.Itoa(i))); got != want {
			t.Errorf("key %d is %q, want %q", i, got, want)
		}
	}
}

// serveTLS serves data of a size by HTTPS with HTTP/1.1 and HTTP/2 and TLS 1.3 in the VPC. A POST is
// answered with the hash of its body, and /ws echoes WebSocket messages. It returns the address and
// the file of the certificate.
func (w *world) serveTLS(t *testing.T, size int) (address, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "target"}, IPAddresses: []net.IP{net.ParseIP(dbHost)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate = filepath.Join(w.sharedDir(), "target.pem")
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	ln, err := w.vpc.Listen("tcp", net.JoinHostPort(dbHost, "443"))
	if err != nil {
		t.Fatal(err)
	}
	data := testData(size)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(rw http.ResponseWriter, _ *http.Request) { rw.Write(data) })
	mux.HandleFunc("POST /", func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(rw, sumOf(body))
	})
	mux.HandleFunc("GET /ws", func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 24)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	})
	server := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}
	go server.ServeTLS(ln, "", "")
	t.Cleanup(func() { server.Close() })
	return net.JoinHostPort(dbHost, "443"), certificate
}

func (p *programs) https(t *testing.T, size int) {
	address, roots := p.serveTLS(t, size)
	data := testData(programSize)
	upload := p.file(t, "https.in", data)
	for _, version := range []string{"--http1.1", "--http2"} {
		down := filepath.Join(p.dir, "https"+version)
		used := p.run(t, "curl", "-sS", version, "--tlsv1.3", "--cacert", roots, "-o", down, "-w", "%{http_version}", "https://"+address+"/")
		if want := strings.TrimPrefix(version, "--http"); used != want {
			t.Errorf("curl %s used HTTP/%s", version, used)
		}
		same(t, "curl "+version+" down", down, testData(size))
		if got := p.run(t, "curl", "-sS", version, "--tlsv1.3", "--cacert", roots, "--data-binary", "@"+upload, "https://"+address+"/"); got != sumOf(data) {
			t.Errorf("curl %s up: the server has hash %s, want %s", version, got, sumOf(data))
		}
	}
}

func (p *programs) websocket(t *testing.T) {
	address, roots := p.serveTLS(t, 1)
	text, err := os.ReadFile(roots)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	ctx := testwait.Context(t)
	c, _, err := websocket.Dial(ctx, "wss://"+address+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{
		DialContext:     p.world.client.Dial,
		TLSClientConfig: &tls.Config{RootCAs: pool},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 24)
	data := testData(programSize / 2)
	for _, size := range []int{1, 125, 126, 65536, len(data)} {
		if err := c.Write(ctx, websocket.MessageBinary, data[:size]); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || !bytes.Equal(got, data[:size]) {
			t.Fatalf("a message of %d bytes: %d bytes, %v", size, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// changes moves the client to another path in the middle of a transfer: a longer one, one with a
// smaller MTU than WireGuard's packets have, and back.
func (p *programs) changes(t *testing.T) {
	const size = 24 * programSize
	address, roots := p.serveTLS(t, size)
	defer p.wire.SetOptions(netnstest.Symmetric(lossyLine))
	down := filepath.Join(p.dir, "changes")
	fetch := p.world.client.Command(testwait.Context(t), "curl", "-sS", "--limit-rate", "4M", "--cacert", roots, "-o", down, "https://"+address+"/")
	var trouble bytes.Buffer
	fetch.Stderr = &trouble
	if err := fetch.Start(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*netnstest.DirectionOptions){
		func(o *netnstest.DirectionOptions) { o.Delay *= 3 },
		func(o *netnstest.DirectionOptions) { o.MTU = 1200 },
		func(o *netnstest.DirectionOptions) { o.Loss = 1 }, // an interruption
		func(o *netnstest.DirectionOptions) { o.Rate /= 4 },
		func(*netnstest.DirectionOptions) {},
	} {
		time.Sleep(time.Second)
		o := lossyLine
		change(&o)
		if err := p.wire.SetOptions(netnstest.Symmetric(o)); err != nil {
			t.Fatal(err)
		}
	}
	if err := fetch.Wait(); err != nil {
		t.Errorf("the download: %v: %s", err, trouble.String())
	}
	same(t, "the download", down, testData(size))
}
