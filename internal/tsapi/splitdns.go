package tsapi

import (
	"context"
	"encoding/json"
	"net/http"
)

// SplitDNS maps a domain to its nameservers. A nameserver is JSON as the API has it: a string
// with an address, or an object with one and options. A caller that writes a list back copies
// the elements that are not its own.
type SplitDNS = map[string][]json.RawMessage

const splitDNSPath = "/api/v2/tailnet/-/dns/split-dns"

func splitDNS(call string) bool {
	return call == CallGetSplitDNS || call == CallPatchSplitDNS || call == CallGetDNS
}

// SplitDNS returns the split DNS of the tailnet. The client or identity needs the scope
// dns:read or dns.
func (c *Client) SplitDNS(ctx context.Context, token Token) (SplitDNS, error) {
	var out SplitDNS
	err := c.do(ctx, request{
		call: CallGetSplitDNS, method: http.MethodGet, path: splitDNSPath,
		bearer: token.Value, secrets: []string{token.Value.Reveal()},
	}, &out, func() bool { return true })
	return out, err
}

// SplitDNSWithOptions returns the split DNS with the options of nameservers, such as
// useWithExitNode, which SplitDNS lacks according to the API's documentation. The API calls this
// part of it alpha. The client or identity needs the scope dns:read or dns.
func (c *Client) SplitDNSWithOptions(ctx context.Context, token Token) (SplitDNS, error) {
	var out struct {
		SplitDNS SplitDNS `json:"splitDNS"`
	}
	err := c.do(ctx, request{
		call: CallGetDNS, method: http.MethodGet, path: "/api/v2/tailnet/-/dns/configuration",
		bearer: token.Value, secrets: []string{token.Value.Reveal()},
	}, &out, func() bool { return true })
	return out.SplitDNS, err
}

// PatchSplitDNS replaces the nameservers of the domains in change, and leaves those of other
// domains alone. A domain with an empty list is removed. An address without options resets them. The client or identity needs the scope
// dns.
func (c *Client) PatchSplitDNS(ctx context.Context, token Token, change SplitDNS) error {
	in := make(SplitDNS, len(change))
	for domain, list := range change {
		if len(list) == 0 {
			list = nil // null, which the API documents for a removal
		}
		in[domain] = list
	}
	r := request{
		call: CallPatchSplitDNS, method: http.MethodPatch, path: splitDNSPath, contentType: "application/json",
		bearer: token.Value, secrets: []string{token.Value.Reveal()},
	}
	var err error
	if r.body, err = json.Marshal(in); err != nil {
		return c.fail(r, other, "the change is malformed")
	}
	return c.do(ctx, r, nil, nil)
}
