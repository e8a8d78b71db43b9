package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/config"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tsapi"
)

const (
	// apiKeyVariable holds an API access token. Tailscale's Terraform provider reads it too.
	apiKeyVariable = "TAILSCALE_API_KEY"
	// verifyAPIEvery is the interval between two looks through the API, which limits the rate of calls.
	verifyAPIEvery = 5 * time.Second
	// maxRouters bounds the calls of one look: one for each router.
	maxRouters = 20
)

// apiCall calls f with a client and an access token, as [credential.Provider.Call] does.
type apiCall func(ctx context.Context, f func(*tsapi.Client, tsapi.Token) error) error

// lookThroughAPI returns a function that looks at routers through Tailscale's API. If it returns
// false, it has printed the mistake in the configuration.
func (c call) lookThroughAPI(target string) (func(context.Context) look, bool) {
	cfg, err := config.LoadCredential(c.args, c.environ, c.own)
	var call apiCall
	if key := environment(c.environ, apiKeyVariable); key != "" {
		api := tsapi.New(tsapi.Config{URL: cfg.Credential.APIURL})
		call = func(_ context.Context, f func(*tsapi.Client, tsapi.Token) error) error {
			return f(api, tsapi.Token{Value: secret.String(key)})
		}
	} else if err == nil {
		log := slog.New(slog.DiscardHandler)
		provider := credential.New(credential.Config{
			Settings: cfg.Credential, ControlURL: cfg.ControlURL,
			Place: place.New(place.Config{MetadataURI: cfg.MetadataURI, Region: cfg.Credential.Region(), AWS: awsapi.Options{Logger: log}, Logger: log}),
		})
		if provider.Choice().Source == credential.FromState {
			err = errors.New("there is no credential for Tailscale's API: set " + apiKeyVariable + " to an access token, or TS_AUTHKEY to an OAuth client secret")
		}
		call = provider.Call
	}
	if err != nil {
		fmt.Fprintln(c.err, err)
		return nil, false
	}
	return func(ctx context.Context) look { return lookThroughAPI(ctx, call, target) }, true
}

var nodeIDForm = regexp.MustCompile(`^n[A-Za-z0-9]{6,}(CNTRL|DEVEL)$`)

// fieldOf returns the field of a device that target is a value of, and its name for people.
func fieldOf(target string) (tsapi.DeviceField, string) {
	switch {
	case strings.HasPrefix(target, "tag:"):
		return tsapi.ByTag, "tag"
	case nodeIDForm.MatchString(target):
		return tsapi.ByID, "node ID"
	case strings.Contains(target, "."):
		return tsapi.ByName, "name"
	}
	return tsapi.ByHostname, "host name"
}

// apiRouter is a device with its routes.
type apiRouter struct {
	tsapi.Device
	advertised, approved []string
}

func lookThroughAPI(ctx context.Context, call apiCall, target string) look {
	target = strings.TrimSuffix(target, ".")
	field, noun := fieldOf(target)
	var found []tsapi.Device
	var routers []apiRouter
	err := call(ctx, func(api *tsapi.Client, token tsapi.Token) (err error) {
		if found, err = api.Devices(ctx, token, field, target); err != nil {
			return err
		}
		routers = nil
		for _, d := range found {
			if d.Connected {
				routers = append(routers, apiRouter{Device: d})
			}
		}
		for i := range routers[:min(len(routers), maxRouters)] {
			r := &routers[i]
			if r.advertised, r.approved, err = api.DeviceRoutes(ctx, token, r.ID); err != nil {
				return err
			}
		}
		return nil
	})
	what := fmt.Sprintf("%s %s", noun, secret.Clean(target, 100))
	switch {
	case errors.Is(err, credential.ErrNoClient):
		return look{problem: "the credential is an auth key, which cannot call Tailscale's API: set " + apiKeyVariable + " to an access token, or use an OAuth client", final: true}
	case err != nil:
		final := errors.Is(err, tsapi.ErrRefused) || errors.Is(err, tsapi.ErrDenied) || errors.Is(err, tsapi.ErrUnsupported)
		return look{problem: secret.Scrub(err.Error()), final: final, wait: max(verifyAPIEvery, problem.Of(err).RetryAfter)}
	case len(found) == 0:
		return look{problem: "no device has the " + what, wait: verifyAPIEvery}
	case len(routers) == 0:
		return look{problem: fmt.Sprintf("no device with the %s is connected to control: is the router running?", what), wait: verifyAPIEvery}
	case len(routers) > maxRouters:
		return look{problem: fmt.Sprintf("%d devices have the %s: at most %d can be verified at a time", len(routers), what, maxRouters), final: true}
	}
	return look{verified: approvedRoutes(routers) + " (primary router and probes: --at)", problem: notApproved(routers), wait: verifyAPIEvery}
}

// shortName returns the first label of a device's name.
func (r apiRouter) shortName() string {
	name, _, _ := strings.Cut(r.Name, ".")
	return secret.Clean(cmp.Or(name, r.Hostname, r.ID), 63)
}

// notApproved returns the first reason why a router is without routes, or "".
func notApproved(routers []apiRouter) string {
	for _, r := range routers {
		name := r.shortName()
		switch {
		case !r.Authorized:
			return "the device " + name + " is not approved: approve it in the admin console, or use a preauthorized key"
		case r.LockError != "":
			return name + ": Tailnet Lock: " + secret.Clean(r.LockError, 200)
		case len(r.advertised) == 0:
			return name + " advertises no route"
		}
		for _, route := range r.advertised {
			if !slices.Contains(r.approved, route) {
				return fmt.Sprintf("%s of %s is not approved: approve it in the admin console, or list it in autoApprovers", secret.Clean(route, 50), name)
			}
		}
	}
	return ""
}

// approvedRoutes lists the routes of each router.
func approvedRoutes(routers []apiRouter) string {
	var list []string
	for _, r := range routers {
		list = append(list, fmt.Sprintf("approved for %s: %s", r.shortName(), secret.Clean(strings.Join(r.advertised, ", "), 2000)))
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}
