package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
	"subnetrouter/internal/tailnettest"
)

// proxyGroup is the group of connections in the other direction: a program of the VPC connects to a node
// of the tailnet through the router's proxies, with userspace networking.
const proxyGroup = "proxy"

const (
	socks5Port    = 1080
	httpProxyPort = 3128
)

// socks5 and httpProxy are the addresses of the router's proxies.
func (r *running) socks5() string    { return r.listener(socks5Port) }
func (r *running) httpProxy() string { return r.listener(httpProxyPort) }

func (r *running) listener(port uint16) string { return netip.AddrPortFrom(r.vpcIP, port).String() }

func proxyTrials(s scale) (list []trial) {
	for _, kind := range []string{load.SOCKS5, load.HTTP} {
		for _, streams := range s.streams {
			for _, toTailnet := range []bool{true, false} {
				list = append(list, proxyBulkTrial(s, kind, streams, toTailnet))
			}
		}
		list = append(list, proxyConnectTrial(s, kind))
	}
	return list
}

// proxied returns the trial of a group of the router's proxies. run gets the way through the proxy of that kind,
// and the address in the tailnet of the node with the servers.
func proxied(kind string, rows []row, run func(ctx context.Context, m *measurement, p load.Proxy, node string) error) trial {
	return trial{
		group: proxyGroup, rows: rows, noPlain: true, proxies: true,
		run: func(ctx context.Context, m *measurement) error {
			nodes, err := m.control.Nodes(ctx)
			if err != nil {
				return err
			}
			laptop, ok := tailnettest.Find(nodes, clientName)
			if !ok || len(laptop.IPs) == 0 {
				return errors.New("the client has no address in the tailnet")
			}
			node := laptop.IPs[0].String()
			servers, err := m.startRole(m.client, "serve", node)
			if err != nil {
				return fmt.Errorf("starting the node's servers: %w", err)
			}
			defer servers.close()
			p := load.Proxy{Kind: kind, Address: m.r.socks5()}
			if kind == load.HTTP {
				p.Address = m.r.httpProxy()
			}
			// The proxy may open after the routes.
			ready := load.FirstByte{Address: nodePort(node, target.EchoPort), Proxy: p, Every: 20 * time.Millisecond, Each: 5 * time.Second, Total: patience}
			if _, err := m.loadAt(ctx, m.vpc, ready); err != nil {
				return fmt.Errorf("awaiting the proxy: %w", err)
			}
			return run(ctx, m, p, node)
		},
	}
}

func nodePort(node string, port int) string { return net.JoinHostPort(node, strconv.Itoa(port)) }

func proxyBulkTrial(s scale, kind string, streams int, toTailnet bool) trial {
	direction, port := "to the tailnet", target.SinkPort
	if !toTailnet {
		direction, port = "to the VPC", target.SourcePort
	}
	prefix := fmt.Sprintf("%s proxy, %s, %d streams: ", kind, direction, streams)
	if streams == 1 {
		prefix = fmt.Sprintf("%s proxy, %s, 1 stream: ", kind, direction)
	}
	speed, cpu, peak := prefix+"throughput", prefix+"CPU", prefix+"peak RSS"
	return proxied(kind, []row{{name: speed, unit: "Mbit/s"}, {name: cpu, unit: "s/GiB"}, {name: peak, unit: "MiB"}},
		func(ctx context.Context, m *measurement, p load.Proxy, node string) error {
			if err := resetPeak(m.r.pids); err != nil {
				return err
			}
			r, used, err := m.loadCPUAt(ctx, m.vpc, load.Stream{Address: nodePort(node, port), Proxy: p, Streams: streams, Down: !toTailnet, For: s.bulk})
			if err != nil {
				return err
			}
			if r.Failed > 0 {
				return fmt.Errorf("%d of %d streams broke: %s", r.Failed, streams, r.Why)
			}
			if r.Bytes == 0 {
				return errors.New("the proxy forwarded no byte")
			}
			m.set(speed, r.PerSecond(float64(r.Bytes)*8/1e6))
			m.setCPU(cpu, used, time.Second, float64(r.Bytes)/gib)
			mem, err := memoryOf(m.r.pids)
			if err != nil {
				return err
			}
			m.setMemory(peak, mem.peak)
			return nil
		})
}

func proxyConnectTrial(s scale, kind string) trial {
	names := namesOfConnections(fmt.Sprintf("%s proxy, new connections, %d at a time: ", kind, s.atOnce))
	return proxied(kind, names.rows(0),
		func(ctx context.Context, m *measurement, p load.Proxy, node string) error {
			r, used, err := m.loadCPUAt(ctx, m.vpc, load.Connect{
				Addresses: []string{nodePort(node, target.EchoPort)}, Proxy: p, Workers: s.atOnce, For: s.connect, Each: 5 * time.Second,
			})
			if err != nil {
				return err
			}
			return names.set(m, r, used)
		})
}
