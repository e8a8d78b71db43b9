package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"subnetrouter/internal/ops"
)

// How much of each list `router status` shows; --json has more.
const (
	shownPeers  = 10
	shownFlows  = 10
	shownEvents = 8

	shownDenials = 5
	shownLearned = 5
)

// noRoutes describes a router that advertises no routes: a look-up that succeeds without any is
// possible only with this setting.
const noRoutes = "none (ROUTER_ROUTES=none)"

// printStatus prints the facts of the status page for a terminal.
func printStatus(w io.Writer, s ops.Status) {
	condition := "ready"
	if s.Draining {
		condition = "draining"
	} else if !s.Ready {
		condition = "not ready"
	}
	fmt.Fprintf(w, "%s: %s (%s, %s mode: %s)\n", orDefault(s.Node.Name, "subnet router"), condition, s.Node.State, s.Mode.Name, s.Mode.Why)
	printReasons(w, "!", s.Reasons)
	printReasons(w, "?", s.Warnings)
	fmt.Fprintf(w, "addresses: %s\n", strings.Join(s.Node.IPs, " "))
	if place := s.Place.String(); place != "" {
		fmt.Fprintf(w, "place: %s\n", place)
	}
	fmt.Fprintf(w, "identity: %s\n", describeIdentity(s.Identity))
	fmt.Fprintf(w, "up: %s, version %s\n", age(s.Started), s.Version.Router)
	fmt.Fprintf(w, "flows: %d tcp, %d udp; peers: %d direct, %d relay, %d derp, %d idle\n",
		s.Flows.TCP, s.Flows.UDP, s.Peers.Direct, s.Peers.Relay, s.Peers.DERP, s.Peers.Idle)
	if d := s.DNS; d != nil && d.Answered {
		fmt.Fprintf(w, "dns: answers for %s (%s)\n", d.Nameserver, orDefault(d.Problem, "resolver "+d.Resolver+", "+d.Source))
	}
	for _, r := range s.Roles {
		fmt.Fprintf(w, "role: %s\n", describeRole(r))
	}
	printAccessStatus(w, s.Access)
	fmt.Fprintf(w, "limits: flows %s, per peer %s, memory %s, open files %s\n",
		use(s.Limits.Flows, plain), use(s.Limits.FlowsPerPeer, plain), use(s.Limits.MemoryBytes, size), use(s.Limits.OpenFiles, plain))

	if len(s.Routes) == 0 && !s.RoutesFound.IsZero() {
		fmt.Fprintf(w, "routes: %s\n", noRoutes)
	}
	table(w, "ROUTE\tSTATE\tSOURCE", s.Routes, func(r ops.RouteStatus) []string {
		return []string{r.Prefix, routeState(r), r.Source}
	})
	table(w, "PEER\tPATH\tLATENCY\tTO PEER\tFROM PEER", first(s.Peers.List, shownPeers), func(p ops.Peer) []string {
		latency := ""
		if p.LatencySeconds > 0 {
			latency = time.Duration(p.LatencySeconds * float64(time.Second)).Round(100 * time.Microsecond).String()
		}
		return []string{orDefault(p.Name, p.IP), strings.TrimSpace(p.Path + " " + p.Via), latency, size(p.ToPeerBytes), size(p.FromPeerBytes)}
	})
	table(w, "FLOW\tTARGET\tTO VPC\tTO TAILNET\tFOR", first(s.Flows.Live, shownFlows), func(f ops.Flow) []string {
		return []string{f.Protocol + " " + orDefault(f.Node, f.Client), f.Target, size(f.ToVPCBytes), size(f.ToTailnetBytes), age(f.Opened)}
	})
	if s.Access != nil {
		table(w, "DENIED\tTARGET\tAGO\tINTERFACE", first(s.Access.Denials, shownDenials), func(d ops.Denial) []string {
			return []string{d.Protocol + " " + orDefault(d.Node, d.Client), d.Target, age(d.Time), d.Interface}
		})
	}
	if e := s.Egress; e != nil {
		table(w, "INTO THE TAILNET\tOPEN\tOPENED\tTO TAILNET\tTO VPC", first(e.Targets, shownFlows), func(t ops.EgressTarget) []string {
			return []string{t.Target, strconv.FormatInt(t.Open, 10), strconv.FormatInt(t.Opened, 10), size(t.ToTailnetBytes), size(t.ToVPCBytes)}
		})
	}
	table(w, "EVENT\tAGO\tDETAIL", first(s.Events, shownEvents), func(e ops.Event) []string {
		return []string{e.Message, age(e.Time), strings.Join(e.Detail, " ")}
	})
}

// printAccessStatus prints the state of ROUTER_ACCESS.
func printAccessStatus(w io.Writer, a *ops.Access) {
	if a == nil {
		return
	}
	malformed, looked, denied := "", "never looked up", "denied"
	if a.Malformed > 0 {
		malformed = fmt.Sprintf(", %d malformed", a.Malformed)
	}
	if !a.LookedUp.IsZero() {
		looked = "looked up " + age(a.LookedUp) + " ago"
	}
	if a.Mode == "report" {
		denied = "would be denied"
	}
	fmt.Fprintf(w, "access: %s, %d rules for %d peers%s; %d targets, %s; %d flows allowed, %d %s\n",
		a.Mode, a.Rules, a.Peers, malformed, a.Targets, looked, a.Allowed, a.Denied, denied)
	if a.Error != "" {
		fmt.Fprintf(w, "  ? %s\n", a.Error)
	}
}

// describeIdentity names the node's identity, and the slots of the service that are not held.
func describeIdentity(i ops.Identity) string {
	if i.Slot == nil {
		return i.State
	}
	parts := []string{fmt.Sprintf("slot %d of %s in %s, leased until %s", *i.Slot, i.Service, i.State, i.LeaseEnd.UTC().Format(time.RFC3339))}
	for _, s := range i.Slots {
		if s.State != "held" {
			parts = append(parts, fmt.Sprintf("slot %d (%s) is %s", s.Number, orDefault(s.Node, "no node"), s.State))
		}
	}
	return strings.Join(parts, "; ")
}

func describeRole(r ops.Role) string {
	state := "not advertised"
	switch {
	case r.Advertised && r.Approved:
		state = "approved"
	case r.Advertised:
		state = "awaits approval"
	}
	if r.Learned > 0 {
		state += fmt.Sprintf(", %d learned routes: %s", r.Learned, strings.Join(first(r.Routes, shownLearned), " "))
	}
	if r.Port != 0 {
		state = fmt.Sprintf("UDP port %d, %d sessions", r.Port, r.Sessions)
		if !r.Advertised {
			state = fmt.Sprintf("UDP port %d is not bound", r.Port)
		}
	}
	return strings.ReplaceAll(r.Name, "_", " ") + ": " + state
}

func printReasons(w io.Writer, mark string, list []ops.Reason) {
	for _, r := range list {
		fmt.Fprintf(w, "  %s %s: %s\n", mark, r.Code, r.Message)
		if r.Fix != "" {
			fmt.Fprintf(w, "    %s\n", r.Fix)
		}
	}
}

// table writes a row for each item of list below head, or nothing if list is empty.
func table[T any](w io.Writer, head string, list []T, row func(T) []string) {
	if len(list) == 0 {
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\n"+head)
	for _, item := range list {
		fmt.Fprintln(tw, strings.Join(row(item), "\t"))
	}
	tw.Flush()
}

func first[T any](list []T, n int) []T { return list[:min(len(list), n)] }

func age(t time.Time) string { return time.Since(t).Round(time.Second).String() }

func plain(n int64) string { return fmt.Sprint(n) }

// size formats a number of bytes with at most four digits.
func size(n int64) string {
	f, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1024, next
	}
	if unit == "B" || f >= 10 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

func use(u ops.Use, show func(int64) string) string {
	if u.Limit == 0 {
		return show(u.Used)
	}
	return show(u.Used) + " of " + show(u.Limit)
}
