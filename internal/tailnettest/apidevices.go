package tailnettest

import (
	"net/http"
	"net/netip"
	"slices"
)

// listDevices lists the nodes with the default fields, those only that match each field in the
// query. A stand-in is no member, so it is not in the list.
func (t *Tailnet) listDevices(r *http.Request) (any, error) {
	client, err := t.callerLocked(r)
	if err != nil {
		return nil, err
	}
	if !client.DevicesRead {
		return nil, errScope
	}
	list := []any{}
	for i, n := range t.nodesLocked() {
		id := string(t.base.Node(t.nodes[i].key).StableID)
		name := n.Name + ".example.ts.net"
		fields := map[string][]string{"nodeId": {id}, "id": {n.ID}, "name": {name}, "hostname": {n.Hostname}, "tags": n.Tags}
		if !matches(fields, r.URL.Query()) {
			continue
		}
		device := map[string]any{
			"nodeId": id, "id": n.ID, "name": name, "hostname": n.Hostname, "addresses": n.IPs, "nodeKey": n.Key, "os": "linux",
			"user": "someone@example.com", "authorized": n.Authorized, "connectedToControl": n.Online, "isEphemeral": n.Ephemeral,
			"isExternal": false, "keyExpiryDisabled": true, "tailnetLockError": "", "expires": "0001-01-01T00:00:00Z",
		}
		if len(n.Tags) > 0 {
			device["tags"] = n.Tags
		}
		if !n.Online {
			device["lastSeen"] = t.nodes[i].offline.UTC()
		}
		list = append(list, device)
	}
	return map[string]any{"devices": list}, nil
}

// matches reports whether each field of a query has one of the device's values, except for "fields", which
// selects the parts of the answer.
func matches(fields map[string][]string, query map[string][]string) bool {
	for field, wanted := range query {
		for _, value := range wanted {
			if field != "fields" && !slices.Contains(fields[field], value) {
				return false
			}
		}
	}
	return true
}

// getDeviceRoutes returns the routes of a node, given by its stable ID.
func (t *Tailnet) getDeviceRoutes(r *http.Request) (any, error) {
	client, err := t.callerLocked(r)
	if err != nil {
		return nil, err
	}
	if !client.RoutesRead {
		return nil, errScope
	}
	for _, n := range t.nodes {
		if string(t.base.Node(n.key).StableID) == r.PathValue("id") {
			list := func(routes []netip.Prefix) []netip.Prefix { return append([]netip.Prefix{}, routes...) }
			return map[string]any{"advertisedRoutes": list(n.advertised), "enabledRoutes": list(n.approved)}, nil
		}
	}
	return nil, refusal{http.StatusNotFound, "no manageable device matching request found"}
}
