package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/tailnet"
)

// findDERPMap returns the running router's DERP map, which is the tailnet's, or else the one
// that the control server publishes.
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
		return skip(err.Error() + "; run doctor next to a running router")
	case err != nil:
		return fail(netCause(err), "see the control lines")
	}
	return pass("regions " + r.String())
}

const noDERPMap = "no DERP map"

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
	const fix = "allow outbound TCP 443 to any address: without a direct path, all traffic goes through DERP"
	if len(bad) == len(list) {
		return fail(fmt.Sprintf("none of %d regions answers, for example %s", len(list), bad[0]), fix)
	}
	value := fmt.Sprintf("%d of %d regions answer, nearest %s in %v", len(list)-len(bad), len(list), list[0].Region, list[0].Latency.Round(100*time.Microsecond))
	if len(bad) > 0 {
		const shown = 3
		more := ""
		if n := len(bad) - shown; n > 0 {
			bad, more = bad[:shown], fmt.Sprintf(" and %d more", n)
		}
		value += "; no answer from " + strings.Join(bad, ", ") + more
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
		return fail(err.Error(), "allow the process to open UDP sockets")
	case !u.Works:
		return warn(fmt.Sprintf("none of %s answered: traffic goes through DERP, which is slower", count(u.Servers, "STUN server", "STUN servers")),
			"allow outbound UDP to any address and port, and the answers (security group, network ACL)")
	}
	value := "works"
	if u.Nearest != "" {
		value += fmt.Sprintf(", nearest DERP region %s in %v", u.Nearest, u.Latency.Round(100*time.Microsecond))
	}
	var seen []string
	if u.Public4.IsValid() {
		seen = append(seen, u.Public4.Addr().String())
	}
	if u.Public6.IsValid() {
		seen = append(seen, u.Public6.Addr().String())
	}
	if len(seen) > 0 {
		value += ", public address " + strings.Join(seen, " and ")
	}
	return pass(value)
}

func (e *exam) derpMapMissing(ctx context.Context) bool {
	_, err := e.derpMap.Get(ctx)
	return err != nil
}

// nat reports how a NAT maps ports, which decides whether direct paths are possible.
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
		return pass(fmt.Sprintf("no NAT: the public address is the host's own; direct paths work if inbound UDP %d is allowed", port))
	case tailnet.MappingIndependent:
		return pass(fmt.Sprintf("endpoint-independent mapping, as with a public address of the task: direct paths work; allow inbound UDP %d in the security group for more of them", port))
	case tailnet.MappingDependent:
		return warn("endpoint-dependent mapping, as behind a NAT gateway: clients behind another NAT reach the router only through DERP, which is slower",
			fmt.Sprintf("for direct paths, put the task into a public subnet with assignPublicIp ENABLED and allow inbound UDP %d", port))
	default:
		return skip("unknown: fewer than two STUN servers of the DERP map answered")
	}
}
