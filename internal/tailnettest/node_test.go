package tailnettest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"

	"tailscale.com/client/local"
	"tailscale.com/control/controlclient"
	_ "tailscale.com/feature/c2n" // answers control's requests
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnauth"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/ipn/localapi"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/memnet"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/tsd"
	"tailscale.com/types/logid"
	"tailscale.com/wgengine"

	"subnetrouter/internal/testwait"
)

// A testNode is a real Tailscale node in this process, without a TCP/IP stack: it answers pings of
// the engine, and other packets to it are lost. Package tsnet would bring the engine's stack, which
// does not compile with the gVisor of go.mod.
type testNode struct {
	local *local.Client
	close func()
}

// newNode starts a node, without waiting until it runs.
func newNode(t *testing.T, tn Control, name string, key Key) testNode {
	t.Helper()
	logf := func(string, ...any) {}
	if os.Getenv("TAILNETTEST_VERBOSE") != "" {
		logf = func(f string, a ...any) { fmt.Fprintf(os.Stderr, name+": "+f+"\n", a...) }
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("starting node %s: %v", name, err)
		}
	}

	sys := tsd.NewSystem()
	monitor, err := netmon.New(sys.Bus.Get(), logf)
	must(err)
	sys.Set(monitor)
	dialer := &tsdial.Dialer{Logf: logf}
	dialer.SetBus(sys.Bus.Get())
	sys.Set(dialer)
	sys.HealthTracker.Get().SetMetricsRegistry(sys.UserMetricsRegistry())
	engine, err := wgengine.NewUserspaceEngine(logf, wgengine.Config{
		NetMon: monitor, HealthTracker: sys.HealthTracker.Get(), Metrics: sys.UserMetricsRegistry(), Dialer: dialer,
		SetSubsystem: sys.Set, ControlKnobs: sys.ControlKnobs(), EventBus: sys.Bus.Get(),
	})
	must(err)
	sys.Set(engine)
	sys.NetstackRouter.Set(true)
	sys.Set(ipn.StateStore(new(mem.Store)))
	sys.Tun.Get().Start()
	flags := controlclient.LoginDefault
	if key.Ephemeral {
		flags = controlclient.LoginEphemeral
	}
	backend, err := ipnlocal.NewLocalBackend(logf, logid.PublicID{}, sys, flags)
	must(err)
	backend.SetVarRoot(t.TempDir())

	api := memnet.Listen("local-tailscaled.sock:80")
	handler := localapi.NewHandler(localapi.HandlerConfig{Actor: ipnauth.Self, Backend: backend, Logf: logf, EventBus: sys.Bus.Get()})
	handler.PermitRead, handler.PermitWrite = true, true
	server := &http.Server{Handler: handler}
	go server.Serve(api)
	n := testNode{local: &local.Client{Dial: api.Dial}}
	n.close = sync.OnceFunc(func() {
		server.Close()
		backend.Shutdown()
		engine.Close()
		monitor.Close()
		sys.Bus.Get().Close()
	})
	t.Cleanup(n.close)

	prefs := ipn.NewPrefs()
	prefs.WantRunning, prefs.CorpDNS = true, false
	prefs.ControlURL, prefs.Hostname = tn.ControlURL(), name
	must(backend.Start(ipn.Options{UpdatePrefs: prefs, AuthKey: key.Value.Reveal()}))
	must(backend.StartLoginInteractive(t.Context()))
	return n
}

// Close ends the node, as its process would.
func (n testNode) Close() { n.close() }

// Up waits until the node runs. It returns an error if control refuses it.
func (n testNode) Up(ctx context.Context) error {
	w, err := n.local.WatchIPNBus(ctx, ipn.NotifyInitialState)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		m, err := w.Next()
		switch {
		case err != nil:
			return err
		case m.ErrMessage != nil:
			return errors.New(*m.ErrMessage)
		case m.State != nil && *m.State == ipn.Running:
			return nil
		}
	}
}

// join starts a node and waits until it runs.
func join(t *testing.T, tn Control, name string, key Key) testNode {
	t.Helper()
	n := newNode(t, tn, name, key)
	if err := n.Up(testwait.Context(t)); err != nil {
		t.Fatalf("starting node %s: %v", name, err)
	}
	return n
}
