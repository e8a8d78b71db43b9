// Command tailnet runs a throwaway tailnet until SIGTERM, for tests that need one in another
// network namespace or container. It prints one line of JSON as soon as nodes can log in;
// [tailnettest.Admin] drives it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "tailnet:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

// ready is the line that is printed once nodes can log in.
type ready struct {
	ControlURL string `json:"control_url"`
	AdminURL   string `json:"admin_url"`
	DERPPort   int    `json:"derp_port"`
	STUNPort   int    `json:"stun_port"`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, err := parse(args, stderr)
	if err != nil {
		return err
	}
	cfg.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	t, err := tailnettest.Start(cfg)
	if err != nil {
		return err
	}
	derp := t.DERPMap().Regions[tailnettest.DERPRegion].Nodes[0]
	if err := json.NewEncoder(stdout).Encode(ready{
		ControlURL: t.ControlURL(),
		AdminURL:   t.ControlURL() + "/test/",
		DERPPort:   derp.DERPPort,
		STUNPort:   derp.STUNPort,
	}); err != nil {
		return errors.Join(err, t.Close())
	}
	<-ctx.Done()
	return t.Close()
}

func parse(args []string, stderr io.Writer) (tailnettest.Config, error) {
	var (
		cfg     tailnettest.Config
		key     string
		tags    []string
		approve []netip.Prefix
	)
	f := flag.NewFlagSet("tailnet", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.TextVar(&cfg.Host, "host", netip.MustParseAddr("127.0.0.1"), "`address` that all servers listen on")
	f.IntVar(&cfg.ControlPort, "control-port", 0, "`port` of the control server and the admin API; 0: a free one")
	f.IntVar(&cfg.DERPPort, "derp-port", 0, "`port` of DERP; 0: a free one")
	f.IntVar(&cfg.STUNPort, "stun-port", 0, "`port` of STUN; 0: a free one")
	f.StringVar(&key, "key", "", "auth `key`: reusable, ephemeral, preauthorized, with the tags")
	f.Func("tag", "`tag` that the key gives; may be repeated", func(s string) error {
		tags = append(tags, s)
		return nil
	})
	f.Func("approve", "comma list of `prefixes` within which nodes with the tags may serve routes", func(s string) error {
		for p := range strings.SplitSeq(s, ",") {
			prefix, err := netip.ParsePrefix(p)
			if err != nil {
				return err
			}
			approve = append(approve, prefix)
		}
		return nil
	})
	f.StringVar((*string)(&cfg.Policy.ApproveWhen), "approve-when", string(tailnettest.AtOnce),
		"`when` routes are approved: at-once or when-reachable")
	f.DurationVar(&cfg.Policy.Failover, "failover", 0, "`grace` for a primary whose map poll is gone")
	if err := f.Parse(args); err != nil {
		return cfg, fmt.Errorf("%w: %w", errUsage, err)
	}
	if len(approve) > 0 {
		if len(tags) == 0 {
			return cfg, fmt.Errorf("%w: --approve needs a --tag to approve for", errUsage)
		}
		cfg.Policy.AutoApprovers = map[string][]netip.Prefix{}
		for _, tag := range tags {
			cfg.Policy.AutoApprovers[tag] = approve
		}
	}
	if key != "" {
		cfg.Keys = []tailnettest.Key{{
			Value: secret.String(key), Reusable: true, Ephemeral: true, Preauthorized: true, Tags: tags,
		}}
	}
	return cfg, nil
}
