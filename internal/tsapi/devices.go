package tsapi

import (
	"context"
	"net/http"
	"net/url"
	"slices"
)

// Device is a device of the tailnet.
type Device struct {
	ID         string   `json:"nodeId"`
	Name       string   `json:"name"`     // MagicDNS name, unique
	Hostname   string   `json:"hostname"` // as the node reports it: all routers of a service have the same
	Tags       []string `json:"tags"`
	Authorized bool     `json:"authorized"`         // false until the device is approved
	Connected  bool     `json:"connectedToControl"` // at the last moment that control knows of
	LockError  string   `json:"tailnetLockError"`   // why Tailnet Lock excludes it; "" if it does not
	External   bool     `json:"isExternal"`         // shared into the tailnet from another one
}

// DeviceField is a field by which devices are selected.
type DeviceField string

// The fields for [Client.Devices].
const (
	ByHostname DeviceField = "hostname"
	ByName     DeviceField = "name"
	ByTag      DeviceField = "tags"
	ByID       DeviceField = "nodeId"
)

// maxDevices bounds the list of devices in bytes: about 20,000 of them. The API filters it, but
// may be a version that does not.
const maxDevices = 16 << 20

// Devices returns the tailnet's own devices of which a field has a value; they have no order. The
// client, identity or access token needs the scope devices:core:read.
func (c *Client) Devices(ctx context.Context, token Token, field DeviceField, value string) ([]Device, error) {
	var out struct {
		Devices []Device `json:"devices"`
	}
	err := c.do(ctx, request{
		call: CallListDevices, method: http.MethodGet,
		path:   "/api/v2/tailnet/-/devices?" + url.Values{"fields": {"default"}, string(field): {value}}.Encode(),
		bearer: token.Value, secrets: []string{token.Value.Reveal()}, maxAnswer: maxDevices,
	}, &out, func() bool { return out.Devices != nil })
	return slices.DeleteFunc(out.Devices, func(d Device) bool {
		values := map[DeviceField][]string{ByHostname: {d.Hostname}, ByName: {d.Name}, ByTag: d.Tags, ByID: {d.ID}}
		return d.External || !slices.Contains(values[field], value)
	}), err
}

// DeviceRoutes returns the routes that a device advertises, and those that are approved for it,
// whether or not it advertises them. It returns none for a device that does not exist. The
// client, identity or access token needs the scope devices:routes:read.
func (c *Client) DeviceRoutes(ctx context.Context, token Token, id string) (advertised, approved []string, err error) {
	r := request{
		call: CallDeviceRoutes, method: http.MethodGet, path: "/api/v2/device/" + id + "/routes",
		bearer: token.Value, secrets: []string{token.Value.Reveal()}, mayBeMissing: true,
	}
	if !nodeID.MatchString(id) { // anything else could change the path
		r.path = "/api/v2/device/"
		return nil, nil, c.fail(r, unavailable, "the node ID is malformed")
	}
	var out struct {
		Advertised []string `json:"advertisedRoutes"`
		Enabled    []string `json:"enabledRoutes"`
	}
	err = c.do(ctx, r, &out, func() bool { return out.Advertised != nil && out.Enabled != nil })
	return out.Advertised, out.Enabled, err
}

func devices(call string) bool { return call == CallListDevices || call == CallDeviceRoutes }
