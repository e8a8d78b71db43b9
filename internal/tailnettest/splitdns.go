package tailnettest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"slices"
)

// Nameserver is a nameserver of a domain in the tailnet's split DNS. The API has it as a string,
// and as an object if it has options; a string in a change resets the options.
type Nameserver struct {
	Address         string `json:"address"`
	UseWithExitNode bool   `json:"useWithExitNode,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (n Nameserver) MarshalJSON() ([]byte, error) {
	if !n.UseWithExitNode {
		return json.Marshal(n.Address)
	}
	type object Nameserver
	return json.Marshal(object(n))
}

// UnmarshalJSON implements [json.Unmarshaler].
func (n *Nameserver) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*n = Nameserver{}
		return json.Unmarshal(b, &n.Address)
	}
	type object Nameserver
	return json.Unmarshal(b, (*object)(n))
}

// SetSplitDNS replaces the tailnet's split DNS, as an administrator does.
func (t *Tailnet) SetSplitDNS(domains map[string][]Nameserver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.api.splitDNS = cloneSplitDNS(domains)
}

// SplitDNS returns the tailnet's split DNS.
func (t *Tailnet) SplitDNS() map[string][]Nameserver {
	t.mu.Lock()
	defer t.mu.Unlock()
	return cloneSplitDNS(t.api.splitDNS)
}

func cloneSplitDNS(domains map[string][]Nameserver) map[string][]Nameserver {
	out := maps.Clone(domains)
	for domain, list := range out {
		out[domain] = slices.Clone(list)
	}
	if out == nil {
		out = map[string][]Nameserver{}
	}
	return out
}

// HideDNSOptions makes the split DNS of the API have addresses only, as documented; the whole
// DNS configuration still has the options.
func (t *Tailnet) HideDNSOptions() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.api.bareDNS = true
}

func (t *Tailnet) mayReadDNS(r *http.Request) error {
	client, err := t.callerLocked(r)
	if err == nil && !client.DNS && !client.DNSRead {
		return errScope
	}
	return err
}

func (t *Tailnet) getSplitDNS(r *http.Request) (any, error) {
	if err := t.mayReadDNS(r); err != nil {
		return nil, err
	}
	return t.splitDNSLocked(), nil
}

// splitDNSLocked returns the split DNS in the form of its own calls.
func (t *Tailnet) splitDNSLocked() map[string][]Nameserver {
	out := cloneSplitDNS(t.api.splitDNS)
	for _, list := range out {
		for i := range list {
			list[i].UseWithExitNode = list[i].UseWithExitNode && !t.api.bareDNS
		}
	}
	return out
}

// getDNS answers with the whole configuration, in which each nameserver is an object.
func (t *Tailnet) getDNS(r *http.Request) (any, error) {
	if err := t.mayReadDNS(r); err != nil {
		return nil, err
	}
	type object Nameserver
	domains := map[string][]object{}
	for domain, list := range t.api.splitDNS {
		for _, n := range list {
			domains[domain] = append(domains[domain], object(n))
		}
	}
	return map[string]any{"nameservers": []object{}, "splitDNS": domains, "searchPaths": []string{}, "preferences": map[string]bool{"magicDNS": true}}, nil
}

// patchSplitDNS merges a change: null or an empty list removes a domain.
func (t *Tailnet) patchSplitDNS(r *http.Request) (any, error) {
	client, err := t.callerLocked(r)
	if err != nil {
		return nil, err
	}
	if !client.DNS {
		return nil, errScope
	}
	var in map[string][]Nameserver
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, refusal{http.StatusBadRequest, "invalid request body"}
	}
	for domain, list := range in {
		for _, n := range list {
			if _, err := netip.ParseAddr(n.Address); err != nil || domain == "" {
				return nil, refusal{http.StatusBadRequest, "invalid nameserver " + n.Address}
			}
		}
	}
	now := cloneSplitDNS(t.api.splitDNS)
	for domain, list := range in {
		if now[domain] = list; len(list) == 0 {
			delete(now, domain)
		}
	}
	t.api.splitDNS = now
	return t.splitDNSLocked(), nil
}
