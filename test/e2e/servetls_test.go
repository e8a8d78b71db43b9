package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/testwait"

	"golang.org/x/net/dns/dnsmessage"
)

// pebble is Let's Encrypt's certificate authority for tests.
const pebble = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3"

// buildPebble leaves the program out if it cannot be built, which skips its test.
func buildPebble(dir string) {
	cmd := exec.Command("go", "install", pebble)
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building pebble: %v\n%s", err, out)
	}
}

// tailnetDomain is the domain of a tailnet with certificates.
const tailnetDomain = "tail.test"

// certificateAuthority is Pebble, and the DNS server that it asks for the records of control.
type certificateAuthority struct {
	url  string // of its directory
	own  string // file with the certificate of its API
	root string // file with the root of the certificates that it issues
	log  *process

	mu      sync.Mutex
	records map[string][]string // TXT, by name
}

// startAuthority is called before the control server starts.
func (w *world) startAuthority() *certificateAuthority {
	t := w.t
	t.Helper()
	if _, err := os.Stat(binary("pebble")); err != nil {
		skipOrFail(t, "pebble is missing: "+err.Error())
	}
	dir := w.sharedDir()
	a := &certificateAuthority{
		url: "https://" + net.JoinHostPort(selfIP, "14000") + "/dir",
		own: filepath.Join(dir, "pebble.pem"), root: filepath.Join(dir, "root.pem"), records: map[string][]string{},
	}
	key := writeOwnCertificate(t, a.own)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": net.JoinHostPort(selfIP, "14000"), "managementListenAddress": net.JoinHostPort(selfIP, "15000"),
		"certificate": a.own, "privateKey": key, "httpPort": 5002, "tlsPort": 5001,
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	dns, err := net.Listen("tcp", net.JoinHostPort(selfIP, "0")) // Pebble asks by TCP
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	go a.serveDNS(dns)
	cmd := exec.Command(binary("pebble"), "-config", file, "-dnsserver", dns.Addr().String())
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	a.log = start(t, "pebble", cmd)
	pool := x509.NewCertPool()
	text, err := os.ReadFile(a.own)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(text)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	testwait.Until(t, "the authority's root", func() error {
		res, err := client.Get("https://" + net.JoinHostPort(selfIP, "15000") + "/roots/0")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		root, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			return errors.Join(err, errors.New(res.Status))
		}
		return os.WriteFile(a.root, root, 0o644)
	})
	return a
}

// writeOwnCertificate writes the certificate of Pebble's API, and returns the file of its key.
func writeOwnCertificate(t *testing.T, file string) (keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble"}, IPAddresses: []net.IP{net.ParseIP(selfIP)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &of, &of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile = strings.TrimSuffix(file, ".pem") + ".key"
	for name, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return keyFile
}

// setDNS is called by control.
func (a *certificateAuthority) setDNS(name, kind, value string) error {
	if kind != "TXT" {
		return fmt.Errorf("a record of the type %s", kind)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name = strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	a.records[name] = append(a.records[name], value)
	return nil
}

func (a *certificateAuthority) serveDNS(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for a.answer(conn) == nil {
			}
		}()
	}
}

// answer answers one query.
func (a *certificateAuthority) answer(conn net.Conn) error {
	size := make([]byte, 2)
	if _, err := io.ReadFull(conn, size); err != nil {
		return err
	}
	query := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return err
	}
	if len(m.Questions) != 1 {
		return fmt.Errorf("%d questions", len(m.Questions))
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	a.mu.Lock()
	values := a.records[strings.ToLower(q.Name.String())]
	a.mu.Unlock()
	for _, v := range values {
		if q.Type == dnsmessage.TypeTXT {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.TXTResource{TXT: []string{v}},
			})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
	return err
}

// issued returns the number of certificates that the authority has issued.
func (a *certificateAuthority) issued() int {
	return strings.Count(a.log.out.String(), "Issued certificate serial")
}

// TestServeTLS: curl verifies the certificate of the router's name that a certificate authority has issued for it, in both
// modes. The second process uses the first one's certificate.
func TestServeTLS(t *testing.T) {
	notOnHeadscale(t, "it has no certificates")
	w := newWorld(t, worldOptions{certificates: true, zones: map[string]netip.Addr{"corp.test": netip.MustParseAddr(dbHost)}}) // MagicDNS is on
	serveApplication(t, w)
	state := w.sharedDir()
	c := w.startClientWith(true)
	for _, mode := range []string{"userspace", "kernel"} {
		r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
			"ROUTER_MODE": mode, "ROUTER_SERVE": "443/tls=localhost:8080,8443/tls=" + dbHost + ":80,444/tls=localhost:9", "ROUTER_STATE": state,
			"TS_DEBUG_ACME_DIRECTORY_URL": w.authority.url, "SSL_CERT_FILE": w.authority.own,
		}})
		r.awaitReady()
		const name = "edge-router." + tailnetDomain
		for url, want := range map[string]string{
			"https://" + name + "/":              "application",
			"https://" + name + ":8443/":         "hello from " + dbHost,
			"https://" + name + "/?bytes=200000": strings.Repeat("x", 200000),
		} {
			testwait.Until(t, url, func() error {
				out, code := c.resolving("curl", "-sS", "-m", "5", "--cacert", w.authority.root, url)
				if code != 0 || !strings.HasPrefix(out, want) {
					return fmt.Errorf("curl %s: exit code %d, %.200q", url, code, out)
				}
				return nil
			})
		}
		if out, code := c.resolving("curl", "-sS", "-m", "5", "--cacert", w.authority.root, "https://"+name+":444/"); code == 0 {
			t.Errorf("%s: a target that refuses connections answers %q", mode, out)
		}
		if out, code := c.resolving("curl", "-sS", "-m", "5", "http://"+name+":443/"); code == 0 {
			t.Errorf("%s: without TLS: %q", mode, out)
		}
		if end := r.metric("router_serve_certificate_expiry_timestamp_seconds"); end < float64(time.Now().Unix()) {
			t.Errorf("%s: the certificate ends at %v", mode, end)
		}
		if code := r.stop(); code != 0 {
			t.Errorf("%s: exit code %d", mode, code)
		}
	}
	if n := w.authority.issued(); n != 1 {
		t.Errorf("%d certificates were issued, want 1", n)
	}
}
