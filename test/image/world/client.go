package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest/stock"

	"tailscale.com/client/local"
	"tailscale.com/tailcfg"
)

// patience bounds one request through the tailnet, unless it says otherwise.
const patience = 10 * time.Second

// client runs a node of the tailnet that accepts routes. On loopback, and so to other nodes at its
// tailnet addresses, it serves
//
//	GET /                        a greeting
//	GET /held                    the beginning of an answer, and the rest after POST /release
//	GET /tcp?to=10.77.0.2:8080   the answer of an HTTP server behind a route, or at a node by its name; &for=1m waits longer
//	GET /udp?to=10.77.0.2:7      the reply to one datagram
//	GET /ping?to=10.77.0.2       the round-trip time of an ICMP echo
//	POST /watch?to=10.77.0.2:8080  starts to connect repeatedly
//	DELETE /watch                stops that and returns the results as JSON
func client(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	control := flags.String("control", "", "`URL` of the control server")
	key := flags.String("key", "", "auth `key`")
	flags.Parse(args)

	node, err := stock.StartClient(ctx, stock.ClientConfig{
		Program: "/tailscaled", Dir: "/tmp", ControlURL: *control, Key: secret.String(*key), Hostname: "laptop",
	})
	if err != nil {
		return err
	}
	defer node.Close()
	mux := http.NewServeMux()
	for path, ask := range map[string]func(context.Context, string) (string, error){
		"/tcp":  func(ctx context.Context, to string) (string, error) { return get(ctx, node, to) },
		"/udp":  func(ctx context.Context, to string) (string, error) { return datagram(ctx, node, to) },
		"/ping": func(ctx context.Context, to string) (string, error) { return ping(ctx, node.Local, to) },
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			limit, err := time.ParseDuration(r.FormValue("for"))
			if err != nil {
				limit = patience
			}
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			answer, err := ask(ctx, r.FormValue("to"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			io.WriteString(w, answer)
		})
	}
	var w watch
	mux.HandleFunc("POST /watch", func(_ http.ResponseWriter, r *http.Request) { w.start(ctx, node, r.FormValue("to")) })
	mux.HandleFunc("DELETE /watch", func(rw http.ResponseWriter, _ *http.Request) { json.NewEncoder(rw).Encode(w.stop()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello from the laptop") })
	release := make(chan struct{})
	mux.HandleFunc("GET /held", func(w http.ResponseWriter, _ *http.Request) { hold(w, func() { <-release }) })
	mux.HandleFunc("POST /release", func(http.ResponseWriter, *http.Request) { close(release) })
	ln, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	go http.Serve(ln, mux)
	if err := announce("ready"); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func get(ctx context.Context, node *stock.Client, to string) (string, error) {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		target, err := netip.ParseAddrPort(address)
		if err != nil {
			target, err = find(ctx, node.Local, address)
		}
		if err != nil {
			return nil, err
		}
		return node.Dial(ctx, network, target)
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to, nil)
	if err != nil {
		return "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// find returns the address of a node by its name.
func find(ctx context.Context, lc *local.Client, address string) (netip.AddrPort, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	status, err := lc.Status(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, peer := range status.Peer {
		if peer.HostName == name && len(peer.TailscaleIPs) > 0 {
			return netip.ParseAddrPort(net.JoinHostPort(peer.TailscaleIPs[0].String(), port))
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no node %s in the tailnet", name)
}

// datagram returns the reply to a datagram, whose text is at its start. It repeats the question if
// only a part of it arrived: see [stock.Client.Dial].
func datagram(ctx context.Context, node *stock.Client, to string) (reply string, err error) {
	target, err := netip.ParseAddrPort(to)
	if err != nil {
		return "", err
	}
	for range 5 {
		if reply, err = exchange(ctx, node, target); err != nil || strings.HasPrefix(reply, question) {
			break
		}
	}
	return reply, err
}

const question = "datagram"

func exchange(ctx context.Context, node *stock.Client, target netip.AddrPort) (string, error) {
	c, err := node.Dial(ctx, "udp", target)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	if _, err := c.Write([]byte(question)); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func ping(ctx context.Context, lc *local.Client, to string) (string, error) {
	addr, err := netip.ParseAddr(to)
	if err != nil {
		return "", err
	}
	res, err := lc.Ping(ctx, addr, tailcfg.PingICMP)
	if err == nil && res.Err != "" {
		err = fmt.Errorf("pinging %s: %s", to, res.Err)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%.1f ms", res.LatencySeconds*1000), nil
}
