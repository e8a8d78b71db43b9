package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// webApplication is a program in the router's task that answers with who it takes the client for.
func webApplication(t *testing.T, w *world) (inside, leave chan bool) {
	t.Helper()
	ln, err := w.routerHost.Listen("tcp", "127.0.0.1:3000")
	if err != nil {
		t.Fatal(err)
	}
	inside, leave = make(chan bool), make(chan bool)
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			inside <- true
			<-leave
		case "/socket":
			c, buffered, err := rw.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
			io.Copy(c, buffered)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "host=%s for=%s proto=%s login=%s name=%s forged=%s%s body=%s\n", r.Host, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"),
			r.Header["Tailscale-User-Login"], r.Header["Tailscale-User-Name"], r.Header["Tailscale_user_login"], r.Header["Tailscale-Other"], body)
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return inside, leave
}

// TestServeHTTP: the router is a reverse proxy with TLS by the file of Tailscale's documentation for containers, and without, in
// both modes. A program behind it learns the user of a device, and no user of a device with tags, whatever clients claim.
func TestServeHTTP(t *testing.T) {
	notOnHeadscale(t, "it has no certificates")
	w := newWorld(t, worldOptions{certificates: true, zones: map[string]netip.Addr{"corp.test": netip.MustParseAddr(dbHost)}}) // MagicDNS is on
	inside, leave := webApplication(t, w)
	state := w.sharedDir()
	w.clientKey = w.createKey(tailnettest.Key{Reusable: true, Preauthorized: true})
	c := w.startClientWith(true)
	file := filepath.Join(state, "serve.json")
	official := `{"TCP": {"443": {"HTTPS": true}, "80": {"HTTP": true}, "81": {"HTTP": true}}, "AllowFunnel": {"${TS_CERT_DOMAIN}:443": false},
		"Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}}, "${TS_CERT_DOMAIN}:80": {"Handlers": {"/": {"Proxy": "3000"}}},
		"${TS_CERT_DOMAIN}:81": {"Handlers": {"/": {"Proxy": "9"}}}}}`
	if err := os.WriteFile(file, []byte(official), 0o644); err != nil {
		t.Fatal(err)
	}
	const name = "edge-router." + tailnetDomain
	curl := func(args ...string) (string, int) {
		return c.resolving("curl", append([]string{"-sS", "-m", "20", "--cacert", w.authority.root}, args...)...)
	}
	forged := []string{"-H", "Tailscale-User-Login: root@example.com", "-H", "tailscale_user_login: root@example.com", "-H", "Tailscale-Other: x", "-H", "X-Forwarded-For: 10.9.9.9"}
	protocols := map[string][]string{
		"https://" + name + "/1":    {"--http1.1"},
		"https://" + name + "/2":    {"--http2"},
		"http://" + name + "/":      nil,
		"http://edge-router/":       nil,
		"http://" + name + ":80/?a": {"--data", "text", "-H", "Transfer-Encoding: chunked"},
	}
	// answers requires one answer of all protocols.
	answers := func(mode, login, user string) {
		t.Helper()
		for url, args := range protocols {
			proto, rest, _ := strings.Cut(url, "://")
			host, _, _ := strings.Cut(rest, "/")
			body := ""
			if len(args) > 2 {
				body = "text"
			}
			want := fmt.Sprintf("host=%s for=%s proto=%s login=%s name=%s forged=[][] body=%s\n", strings.TrimSuffix(host, ":80"), c.address("-4"), proto, login, user, body)
			testwait.Until(t, url, func() error {
				out, code := curl(append(append(args, forged...), "-4", url)...)
				if code != 0 || out != want {
					return fmt.Errorf("%s: curl %s: exit code %d, %q, want %q", mode, url, code, out, want)
				}
				return nil
			})
		}
	}
	for _, mode := range []string{"userspace", "kernel"} {
		r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
			"ROUTER_MODE": mode, "TS_SERVE_CONFIG": file, "ROUTER_STATE": state,
			"TS_DEBUG_ACME_DIRECTORY_URL": w.authority.url, "SSL_CERT_FILE": w.authority.own,
		}})
		r.awaitReady()
		var who struct {
			UserProfile struct{ LoginName, DisplayName string }
		}
		if err := json.Unmarshal([]byte(c.tailscale("whois", "--json", c.address("-4"))), &who); err != nil || who.UserProfile.LoginName == "" {
			t.Fatalf("%+v, %v", who, err)
		}
		answers(mode, "["+who.UserProfile.LoginName+"]", "["+who.UserProfile.DisplayName+"]")
		if out, code := curl("--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "https://"+name+"/"); code != 0 || out != "2 200" {
			t.Errorf("%s: HTTP/2: exit code %d, %q", mode, code, out)
		}
		if out, code := curl("-H", "Host: evil.test", "http://"+name+"/"); code != 0 || !strings.Contains(out, "host=evil.test") || !strings.Contains(out, "login=[]") {
			t.Errorf("%s: another host: exit code %d, %q", mode, code, out)
		}
		if out, code := curl("-w", "%{http_code}", "http://"+name+":81/"); code != 0 || out != "the program behind this port does not answer\n502" {
			t.Errorf("%s: a target that refuses connections: exit code %d, %q", mode, code, out)
		}
		if n := r.metric(`router_serve_tls_failures_total{reason="target"}`); n != 1 {
			t.Errorf("%s: %v failures of the target, want 1", mode, n)
		}
		upgrade(t, w, mode, c, name)

		c.tailscale("logout")
		tagged := w.createKey(tailnettest.Key{Reusable: true, Preauthorized: true, Tags: []string{clientTag}})
		login := func(key string) {
			c.tailscale("up", "--login-server="+w.control.ControlURL(), "--auth-key="+key, "--accept-routes", "--accept-dns", "--hostname=laptop", "--timeout=30s")
		}
		login(tagged.Reveal())
		answers(mode, "[]", "[]")
		c.tailscale("logout")
		login(w.clientKey.Reveal())

		// A drain lets the open request finish, and does not wait for an idle connection.
		idle := w.dialOwn(c, name, 80)
		fmt.Fprintf(idle, "GET / HTTP/1.1\r\nHost: edge-router\r\n\r\n")
		in := bufio.NewReader(idle)
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %v", mode, res, err)
		} else if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		slow := make(chan string, 1)
		go func() {
			out, code := curl("--http2", "https://"+name+"/slow")
			slow <- fmt.Sprint(code, out)
		}()
		<-inside
		stopped := make(chan int, 1)
		go func() { stopped <- r.stop() }()
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("%s: the idle connection: %q, %v", mode, rest, err)
		}
		select {
		case code := <-stopped:
			t.Errorf("%s: the router has stopped during a request, with exit code %d", mode, code)
		case <-time.After(3 * time.Second): // the data path takes a flow for idle 2 s after a request without an answer
		}
		leave <- true
		if got := testwait.Receive(t, "the answer of the open request", slow); !strings.HasPrefix(got, "0host=") {
			t.Errorf("%s: the open request: %q", mode, got)
		}
		if code := testwait.Receive(t, "the end of the router", stopped); code != 0 {
			t.Errorf("%s: exit code %d", mode, code)
		}
	}
}

// dialOwn connects to a port of the router's name from the client.
func (w *world) dialOwn(c *client, name string, port int) net.Conn {
	w.t.Helper()
	host, _, _ := strings.Cut(name, ".")
	out := c.tailscale("ip", "-4", host)
	conn, err := w.client.Dial(w.t.Context(), "tcp", net.JoinHostPort(strings.TrimSpace(out), fmt.Sprint(port)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// upgrade switches a connection with TLS to another protocol, as a WebSocket, which echoes.
func upgrade(t *testing.T, w *world, mode string, c *client, name string) {
	t.Helper()
	root, err := os.ReadFile(w.authority.root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	conn := tls.Client(w.dialOwn(c, name, 443), &tls.Config{RootCAs: pool, ServerName: name})
	if err := conn.HandshakeContext(testwait.Context(t)); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", name)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %v, %v", mode, res, err)
	}
	for _, text := range []string{"ping", strings.Repeat("x", 100_000)} {
		go io.WriteString(conn, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != text {
			t.Errorf("%s: the echo has %d bytes, %v", mode, len(got), err)
		}
	}
}
