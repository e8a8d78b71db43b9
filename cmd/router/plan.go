package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/router"
	"subnetrouter/internal/secret"
)

// planTimeout bounds the look-ups of one `router plan`.
const planTimeout = 30 * time.Second

func planCommand(own *flag.FlagSet) func(context.Context, call) int {
	asJSON := own.Bool("json", false, "print JSON")
	iam := own.Bool("iam", false, "print the IAM policy of the task role; makes no AWS calls")
	kmsKey := own.String("kms-key", "", "with --iam: `ARN` of the customer managed KMS key that encrypts the secret or parameter")
	why := own.Bool("why", false, "with --iam: add the actions of the why command")
	return func(ctx context.Context, in call) int {
		cfg, err := in.load()
		if *iam { // set by load, and decides with which environment the configuration is read
			in.environ = environForPolicy(in.environ)
			cfg, err = in.load()
		}
		code, ok := in.parsed(err)
		switch {
		case !ok:
			return code
		case *iam:
			return printPolicy(ctx, in, cfg, *kmsKey, *why)
		case *kmsKey != "":
			fmt.Fprintln(in.err, "--kms-key: valid only with --iam: add --iam, or remove it")
			return exitConfig
		case *why:
			fmt.Fprintln(in.err, "--why: valid only with --iam: add --iam, or remove it")
			return exitConfig
		}
		return plan(ctx, in, cfg, *asJSON)
	}
}

// plan runs `router plan`: the look-ups of a start, without joining the tailnet. It names the
// credential's source without reading it.
func plan(ctx context.Context, in call, cfg config.Config, asJSON bool) int {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	if !asJSON {
		printWarnings(in.err, cfg)
	}
	p, err := router.MakePlan(ctx, cfg)
	if err != nil {
		fmt.Fprintln(in.err, secret.Scrub(err.Error()))
		return exitFailed
	}
	if asJSON {
		enc := json.NewEncoder(in.out)
		enc.SetIndent("", "  ")
		enc.Encode(p)
		return exitOK
	}
	in.show(func(w io.Writer) { printPlan(w, p) })
	return exitOK
}

// printWarnings prints the warnings of the configuration that `router run` logs.
func printWarnings(w io.Writer, cfg config.Config) {
	for _, warning := range cfg.Warnings {
		fmt.Fprintf(w, "router: warning: %s\n", warning)
	}
}

func printPlan(w io.Writer, p router.Plan) {
	fmt.Fprintf(w, "place:       %s\n", orDefault(p.Place.String(), "not on ECS"))
	fmt.Fprintf(w, "credential:  %s\n             (%s)\n", p.Credential, p.Why)
	fmt.Fprintf(w, "identity:    %s\n", p.State)
	if len(p.Routes) == 0 {
		fmt.Fprintf(w, "routes:      %s\n", noRoutes)
	}
	table(w, "ROUTE\tPLAN\tSOURCE", p.Routes, func(r ops.RouteStatus) []string {
		action := "advertise"
		if r.Refused != "" {
			action = "refused: " + r.Refused
		}
		return []string{r.Prefix, action, r.Source}
	})
	for _, note := range p.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", note)
	}
	if s := p.Site; s != nil {
		fmt.Fprintf(w, "\nsite %d: IPv4 routes are advertised as 4via6, which distinguishes VPCs with the same addresses.\n", s.ID)
		fmt.Fprintf(w, "  In MagicDNS a.b.c.d behind this router is called %s:\n  %s is %s (%s).\n", s.Pattern, s.Address, s.Name, s.Via)
	}
	if p.DNS != nil {
		printDNS(w, p.DNS)
	}
	if p.Register != nil {
		printRegistration(w, p.Register)
	}
	printRoles(w, p.Roles)
	if p.StatusGrants != nil {
		policy, _ := json.MarshalIndent(p.StatusGrants, "  ", "  ")
		fmt.Fprintf(w, "\nstatus on the tailnet: add this to the tailnet policy, with those who may read it in src:\n\n  %s\n", policy)
	}
	if p.ServeGrants != nil {
		policy, _ := json.MarshalIndent(p.ServeGrants, "  ", "  ")
		fmt.Fprintf(w, "\nserved ports: add this to the tailnet policy, with those who may connect in src:\n\n  %s\n", policy)
	}
	if p.AccessGrants != nil {
		printAccess(w, p.AccessGrants)
	}
}

// printAccess prints the grants of ROUTER_ACCESS.
func printAccess(w io.Writer, g *router.Grants) {
	policy, _ := json.MarshalIndent(g, "  ", "  ")
	fmt.Fprintf(w, "\naccess by AWS identity: add grants such as these to the tailnet policy. The first opens the routes, the second\n"+
		"names the targets: replace src, and the security groups, tags and ports.\n\n  %s\n", policy)
}

// printRoles prints the roles besides that of a subnet router.
func printRoles(w io.Writer, roles []router.PlanRole) {
	for _, r := range roles {
		policy, _ := json.MarshalIndent(r.Policy, "  ", "  ")
		fmt.Fprintf(w, "\nrole %s: add this to the tailnet policy, with your users and domains:\n\n  %s\n", strings.ReplaceAll(r.Name, "_", " "), policy)
	}
}

// printDNS prints the split DNS of the VPC's resolver, with its zones.
func printDNS(w io.Writer, d *ops.DNS) {
	fmt.Fprintf(w, "\nDNS: %s\n", d.SplitDNS)
	if len(d.Zones) > 0 {
		fmt.Fprintln(w)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "ZONE\tSOURCE")
		for _, z := range d.Zones {
			fmt.Fprintf(tw, "%s\t%s\n", z.Name, z.Source)
		}
		tw.Flush()
		fmt.Fprintln(w)
	}
	if d.Terraform != "" {
		fmt.Fprintf(w, "  As Terraform:\n\n%s", d.Terraform)
	}
	for _, note := range d.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", note)
	}
}

// printRegistration prints the change of the tailnet's split DNS.
func printRegistration(w io.Writer, p *router.PlanDNS) {
	if len(p.Change) == 0 && p.Note == "" && len(p.Held) == 0 {
		fmt.Fprintf(w, "\nregistration: the tailnet's split DNS names %s for every zone\n", p.Nameserver)
		return
	}
	if len(p.Change) > 0 {
		fmt.Fprintf(w, "\nregistration: these domains of the tailnet's split DNS change\n\n")
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "DOMAIN\tNAMESERVERS")
		for _, domain := range slices.Sorted(maps.Keys(p.Change)) {
			list, _ := json.Marshal(p.Change[domain])
			fmt.Fprintf(tw, "%s\t%s\n", domain, list)
		}
		tw.Flush()
	}
	if len(p.Held) > 0 {
		fmt.Fprintf(w, "\nnote: a change would reset options of others' nameservers, so these domains stay: %s. Add %s to them in the admin console.\n", strings.Join(p.Held, ", "), p.Nameserver)
	}
	if p.Note != "" {
		fmt.Fprintf(w, "\nnote: %s\n", p.Note)
	}
}
