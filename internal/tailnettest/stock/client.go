package stock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"tailscale.com/client/local"
	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/ipn"
)

// Client is a running tailscaled in userspace mode that accepts routes, as on a laptop. Only
// [Client.Dial] reaches the tailnet.
type Client struct {
	Local *local.Client
	IPs   []netip.Addr

	cmd *exec.Cmd
}

// ClientConfig configures a [Client].
type ClientConfig struct {
	Program    string // path of tailscaled
	Dir        string // for its socket; must exist
	ControlURL string
	Key        secret.String
	Hostname   string
}

// StartClient starts a client, and waits until it is a member of the tailnet.
func StartClient(ctx context.Context, cfg ClientConfig) (_ *Client, err error) {
	socket := filepath.Join(cfg.Dir, "tailscaled.sock")
	cmd := exec.Command(cfg.Program, "--tun=userspace-networking", "--state=mem:", "--statedir="+cfg.Dir,
		"--socket="+socket, "--port=0", "--no-logs-no-support")
	cmd.Env = append(os.Environ(), tailnettest.Env()...)
	c := &Client{Local: &local.Client{Socket: socket, UseSocketOnly: true, OmitAuth: true}, cmd: cmd}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting tailscaled: %w", err)
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	prefs := ipn.NewPrefs()
	prefs.WantRunning, prefs.RouteAll, prefs.CorpDNS = true, true, false
	prefs.ControlURL, prefs.Hostname = cfg.ControlURL, cfg.Hostname
	options := ipn.Options{UpdatePrefs: prefs, AuthKey: cfg.Key.Reveal()}
	started := false
	err = testwait.For(ctx, "the client to join the tailnet", func(ctx context.Context) error {
		if !started {
			if err := c.Local.Start(ctx, options); err != nil {
				return err
			}
			if err := c.Local.StartLoginInteractive(ctx); err != nil {
				return err
			}
			started = true
		}
		st, err := c.Local.StatusWithoutPeers(ctx)
		if err != nil {
			return err
		}
		if st.BackendState != ipn.Running.String() || len(st.TailscaleIPs) == 0 {
			return fmt.Errorf("the client is in state %s", st.BackendState)
		}
		c.IPs = st.TailscaleIPs
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Dial opens a connection ("tcp", or "udp" for exchanges of one datagram) through the tailnet. It
// fails if no peer has a route to the address.
func (c *Client) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	got := make(chan net.Conn, 1)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { got <- i.Conn }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+apitype.LocalAPIHost+"/localapi/v0/dial", nil)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{
		"Upgrade": {"ts-dial"}, "Connection": {"upgrade"}, "Dial-Network": {network},
		"Dial-Host": {to.Addr().String()}, "Dial-Port": {strconv.Itoa(int(to.Port()))},
	}
	res, err := c.Local.DoLocalRequest(req)
	if err != nil {
		return nil, fmt.Errorf("connecting to %v through the tailnet: %w", to, err)
	}
	body, ok := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != http.StatusSwitchingProtocols || !ok {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		res.Body.Close()
		if res.Header.Get("Dial-Self") != "" {
			text = []byte("no peer has a route to it")
		}
		return nil, fmt.Errorf("connecting to %v through the tailnet: %s: %s", to, res.Status, text)
	}
	if network == "udp" {
		// tailscaled answers before it has taken the connection over from its HTTP server. Of
		// bytes that arrive in between, the first becomes a datagram of its own. Nothing
		// reports the end of this time, so callers should repeat a question without an answer.
		select {
		case <-time.After(takeOver):
		case <-ctx.Done():
		}
	}
	return &conn{Conn: <-got, body: body, local: c.IPs[0]}, nil
}

// takeOver is the time that tailscaled usually needs to take a connection over.
const takeOver = 20 * time.Millisecond

// conn is the connection of a LocalAPI request that was upgraded. Its body may hold bytes that
// were read with the response's header.
type conn struct {
	net.Conn
	body  io.ReadWriteCloser
	local netip.Addr
}

// LocalAddr returns the node's address: the port is known only to tailscaled. SOCKS5 servers report
// it to their clients.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.local, 0)) }

func (c *conn) Read(b []byte) (int, error)  { return c.body.Read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.body.Write(b) }
func (c *conn) Close() error                { return errors.Join(c.body.Close(), c.Conn.Close()) }

// Close ends the client.
func (c *Client) Close() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}
