// Package bootstrap combines the look-ups that a router makes to start: its place in AWS
// (package place), its identity (package identity), its credential (package credential), the
// routes that it advertises (package routesource), the zones for split DNS (package zones) and
// the AWS identity of targets (package targets).
//
// Look-ups happen only inside the methods; no goroutine runs in between. The AWS SDK is
// configured by the first look-up that needs it, so it is never used on a laptop with an
// auth key and CIDRs.
package bootstrap

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/targets"
	"subnetrouter/internal/bootstrap/zones"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/slot"
	"subnetrouter/internal/splitdns"
)

// Config configures a [Bootstrap]. Credential, Routes, Identity and Zones are the operator's
// settings as package config reads them.
type Config struct {
	Credential credential.Settings
	Routes     routesource.Settings
	Identity   identity.Settings
	Zones      zones.Settings
	Targets    targets.Settings
	// DNSRegister reports that the router registers the zones in the tailnet's split DNS.
	DNSRegister bool

	// MetadataURI is the value of ECS_CONTAINER_METADATA_URI_V4; "" outside ECS.
	MetadataURI string
	// ControlURL is the control server; "" is [routesource.DefaultControl].
	ControlURL string
	// Logger receives transitions, and the AWS SDK's log at debug level; nil discards both.
	Logger *slog.Logger
	// Called is called after each AWS call: see [awsapi.Options].
	Called func(action string, err error)
	// APICalled is called after each call of Tailscale's API: see tsapi.Config.
	APICalled func(call string, err error)

	// TryTimeout and Tries bound AWS calls, and Date receives AWS's time: see
	// [awsapi.Options].
	TryTimeout time.Duration
	Tries      int
	Date       func(time.Time)

	// Clock is the clock of leases; nil means the machine's.
	Clock slot.Clock

	// Transport carries requests to AWS, the task metadata endpoint and Tailscale's API;
	// nil means the network.
	Transport http.RoundTripper
	// LocalAddrs lists the addresses of this machine; nil asks the operating
	// system. It is not called where task metadata lists them.
	LocalAddrs func() ([]netip.Addr, error)
	// LookupHost resolves names; nil asks the operating system.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Bootstrap makes the look-ups of one [Config]. It is safe for concurrent use.
type Bootstrap struct {
	config     Config
	place      *place.Finder
	credential *credential.Provider
	routes     *routesource.Finder
	identity   *identity.Provider
	zones      *zones.Finder
	targets    *targets.Finder
}

// New returns a Bootstrap. It looks nothing up.
func New(c Config) *Bootstrap {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bootstrap{config: c}
	b.place = place.New(place.Config{
		MetadataURI: c.MetadataURI,
		Region:      c.Credential.Region(),
		AWS: awsapi.Options{
			Logger: c.Logger, Called: c.Called, Transport: c.Transport,
			TryTimeout: c.TryTimeout, Tries: c.Tries, Date: c.Date,
		},
		Transport:  c.Transport,
		LocalAddrs: c.LocalAddrs,
		Logger:     c.Logger,
	})
	b.credential = credential.New(credential.Config{
		Settings:   c.Credential,
		Place:      b.place,
		ControlURL: c.ControlURL,
		Ephemeral:  !identity.Lasting(c.Identity.Source),
		Transport:  c.Transport,
		APICalled:  c.APICalled,
	})
	b.routes = routesource.New(routesource.Config{
		Settings:   c.Routes,
		Place:      b.place,
		ControlURL: c.ControlURL,
		Logger:     c.Logger,
		LookupHost: c.LookupHost,
	})
	b.identity = identity.New(identity.Config{Settings: c.Identity, Place: b.place, Logger: c.Logger, Clock: c.Clock})
	b.zones = zones.New(c.Zones, b.place)
	b.targets = targets.New(b.place)
	return b
}

// Identity waits until the node's identity is available: see [identity.Provider.Open].
func (b *Bootstrap) Identity(ctx context.Context) (*identity.Identity, error) {
	return b.identity.Open(ctx)
}

// ExamineIdentity reads the place of the identity: see [identity.Provider.Examine].
func (b *Bootstrap) ExamineIdentity(ctx context.Context) (string, error) {
	return b.identity.Examine(ctx)
}

// IdentityWaiting returns why Identity has not returned yet, or nil.
func (b *Bootstrap) IdentityWaiting() error { return b.identity.Waiting() }

// Place returns the place, with the facts looked up so far: see [place.Finder.Place].
func (b *Bootstrap) Place(ctx context.Context) (place.Place, error) { return b.place.Place(ctx) }

// CredentialChoice returns the credential source in use: see [credential.Provider.Choice].
func (b *Bootstrap) CredentialChoice() credential.Choice { return b.credential.Choice() }

// CredentialKnown returns the result of the last read: see [credential.Provider.Known].
func (b *Bootstrap) CredentialKnown() credential.Known { return b.credential.Known() }

// Credential returns an auth key and its origin: see [credential.Provider.Key].
func (b *Bootstrap) Credential(ctx context.Context) (key secret.String, from string, err error) {
	return b.credential.Key(ctx)
}

// CredentialRefused reports that control refused the key: see [credential.Provider.Refused].
func (b *Bootstrap) CredentialRefused() { b.credential.Refused() }

// LookAtCredential reads the credential without using it: see [credential.Provider.Look].
func (b *Bootstrap) LookAtCredential(ctx context.Context) error { return b.credential.Look(ctx) }

// Routes looks up the routes once: see [routesource.Finder.Routes].
func (b *Bootstrap) Routes(ctx context.Context) (routesource.Routes, error) {
	return b.routes.Routes(ctx)
}

// Follow returns a follower of the routes: see [routesource.Finder.Follow].
func (b *Bootstrap) Follow(how routesource.Follow) *routesource.Follower { return b.routes.Follow(how) }

// Resolver returns the VPC's DNS resolver: see [routesource.Finder.Resolver].
func (b *Bootstrap) Resolver(ctx context.Context, r routesource.Routes) (routesource.Resolver, bool) {
	return b.routes.Resolver(ctx, r)
}

// Zones looks up the zones for split DNS: see [zones.Finder.Find].
func (b *Bootstrap) Zones(ctx context.Context) (zones.Zones, error) { return b.zones.Find(ctx) }

// FollowTargets returns a follower of the targets: see [targets.Finder.Follow].
func (b *Bootstrap) FollowTargets(how targets.Follow) *targets.Follower { return b.targets.Follow(how) }

// SplitDNS returns the split DNS of the tailnet: see credential.Provider.SplitDNS.
func (b *Bootstrap) SplitDNS(ctx context.Context) (splitdns.Table, error) {
	return b.credential.SplitDNS(ctx)
}

// SplitDNSWithOptions returns the split DNS with the options of nameservers: see
// credential.Provider.SplitDNSWithOptions.
func (b *Bootstrap) SplitDNSWithOptions(ctx context.Context) (splitdns.Table, error) {
	return b.credential.SplitDNSWithOptions(ctx)
}

// PatchSplitDNS changes the split DNS of the tailnet: see credential.Provider.PatchSplitDNS.
func (b *Bootstrap) PatchSplitDNS(ctx context.Context, change splitdns.Table) error {
	return b.credential.PatchSplitDNS(ctx, change)
}
