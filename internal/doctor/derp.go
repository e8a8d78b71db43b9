package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/tailnet"
)

// findRelays takes the running router's list, which is the tailnet's own; else
// what the control server publishes.
func (e *exam) findDERPMap(ctx context.Context) (*tailnet.DERPMap, error) {
	if _, err := e.status.Get(ctx); err == nil {
		if data, err := e.DERPMap(ctx); err == nil {
			if r, err := tailnet.ParseDERPMap(data); err == nil {
				return r, nil
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return tailnet.FetchDERPMap(ctx, e.Config.ControlURL)
}

func (e *exam) derpList(ctx context.Context) Result {
	r, err := e.derpMap.Get(ctx)
	switch {
	case errors.Is(err, tailnet.ErrDERPMapForMembers):
		return skip(err.Error() + "; run doctor beside a running router")
	case err != nil:
		return fail(netCause(err), "see the control server's lines")
	}
	return pass("regions " + r.String())
}

const noDERPMap = "no list of relays"

func (e *exam) derpReach(ctx context.Context) Result {
	relays, err := e.derpMap.Get(ctx)
	if err != nil {
		return skip(noDERPMap)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list := relays.Dial(ctx, e.mode)
	var bad []string
	for _, r := range list {
		if r.Err != nil {
			bad = append(bad, fmt.Sprintf("%s (%s): %s", r.Region, r.Host, netCause(r.Err)))
		}
	}
	const fix = "let TCP 443 out to any address: where no direct path exists, a relay carries all traffic"
	if len(bad) == len(list) {
		return fail(fmt.Sprintf("none of %d regions answers, as %s", len(list), bad[0]), fix)
	}
	value := fmt.Sprintf("%d of %d regions answer, nearest %s in %v", len(list)-len(bad), len(list), list[0].Region, list[0].Latency.Round(100*time.Microsecond))
	if len(bad) > 0 {
		const shown = 3
		more := ""
		if n := len(bad) - shown; n > 0 {
			bad, more = bad[:shown], fmt.Sprintf(" and %d more", n)
		}
		value += "; not " + strings.Join(bad, ", ") + more
		if 2*len(bad) > len(list) {
			return warn(value, fix)
		}
	}
	return pass(value)
}

func (e *exam) udpReach(ctx context.Context) Result {
	u, err := e.udp.Get(ctx)
	switch {
	case e.derpMapMissing(ctx):
		return skip(noDERPMap)
	case err != nil:
		return fail(err.Error(), "let the process open UDP sockets")
	case !u.Works:
		return warn(fmt.Sprintf("none of %s answered: relays only, slower", count(u.Servers, "STUN server", "STUN servers")),
			"let UDP out to any address and port, and its answers in (security group, network ACL)")
	}
	value := "works"
	if u.Nearest != "" {
		value += fmt.Sprintf(", nearest relay %s in %v", u.Nearest, u.Latency.Round(100*time.Microsecond))
	}
	var seen []string
	if u.Public4.IsValid() {
		seen = append(seen, u.Public4.Addr().String())
	}
	if u.Public6.IsValid() {
		seen = append(seen, u.Public6.Addr().String())
	}
	if len(seen) > 0 {
		value += ", seen outside as " + strings.Join(seen, " and ")
	}
	return pass(value)
}

func (e *exam) derpMapMissing(ctx context.Context) bool {
	_, err := e.derpMap.Get(ctx)
	return err != nil
}

// nat tells whether peers can find a way in: whether a direct path can be.
func (e *exam) nat(ctx context.Context) Result {
	u, err := e.udp.Get(ctx)
	switch {
	case e.derpMapMissing(ctx):
		return skip(noDERPMap)
	case err != nil || !u.Works:
		return skip("no UDP")
	}
	port := e.Config.UDPPort
	switch u.Mapping {
	case tailnet.MappingNone:
		return pass(fmt.Sprintf("none: the address seen outside is the host's own; direct paths, if UDP %d is let in", port))
	case tailnet.MappingIndependent:
		return pass(fmt.Sprintf("endpoint-independent mapping, as behind a public address of the task: direct paths; better still with UDP %d let in by the security group", port))
	case tailnet.MappingDependent:
		return warn("endpoint-dependent mapping, as behind a NAT gateway: clients behind a NAT of their own reach the router by relays only, slower",
			fmt.Sprintf("for direct paths put the task into a public subnet with assignPublicIp ENABLED and let UDP %d in", port))
	}
	return skip("unknown: it takes answers from two STUN servers, and the list has not enough that answer")
}
