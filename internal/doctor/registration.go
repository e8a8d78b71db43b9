package doctor

import (
	"context"
	"errors"

	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/tsapi"
)

// registration checks that the credential may register split DNS. A running router knows; otherwise
// the check reads the split DNS, which it does not change, so that a missing right to write shows
// only later. Without the registration the router works, so that no result is a failure.
func (e *exam) registration(ctx context.Context) Result {
	if !e.Config.DNSRegister {
		return skip("ROUTER_DNS_REGISTER is off")
	}
	const fix = "see registered split DNS in docs/operations.md"
	if s, err := e.status.Get(ctx); err == nil {
		switch now := s.DNSRegistration; now.State {
		case "", "off": // the running router has another configuration
		case "registered":
			return pass("registered: " + count(len(now.Domains), "domain has", "domains have") + " the nameserver " + now.Nameserver)
		case "waiting":
			return skip("waiting: " + now.Message)
		case "denied":
			return warn("denied: "+now.Message, grantDNS)
		case "unsupported":
			return warn("unsupported: "+now.Message, configureServer)
		default:
			return warn(now.State+": "+now.Message, fix)
		}
	}
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return skip(err.Error())
	}
	switch table, err := boot.SplitDNS(ctx); {
	case err == nil:
		return pass("readable, with " + count(len(table), "domain", "domains") + "; the first change shows whether the credential has the scope dns (write)")
	case errors.Is(err, credential.ErrNoClient):
		return warn("no_client: the credential is an auth key, which cannot change the tailnet's split DNS", "use an OAuth client or a federated identity with the scope dns, or set ROUTER_DNS_REGISTER=off")
	case errors.Is(err, tsapi.ErrDenied):
		return warn("denied: "+problem.Of(err).Message, grantDNS)
	case errors.Is(err, tsapi.ErrUnsupported):
		return warn("unsupported: "+problem.Of(err).Message, configureServer)
	default:
		r := failed(err, fix)
		return warn("failing: "+r.Value, r.Fix)
	}
}

// The fixes of a registration.
const (
	grantDNS        = "in the admin console, under Settings, Trust credentials, add the scope dns (write) to the client or identity, or set ROUTER_DNS_REGISTER=off"
	configureServer = "set ROUTER_DNS_REGISTER=off, and configure split DNS in the server; Headscale has dns.nameservers.split"
)
