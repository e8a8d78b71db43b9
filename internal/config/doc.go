// Package config reads the router's configuration from environment and flags, and returns
// one validated [Config], or one [*Error] with all problems.
//
// # How settings are read
//
// Each ROUTER_ variable has a flag of the same name, in lower case with dashes:
// --routes for ROUTER_ROUTES. The first one set takes precedence: the flag, the ROUTER_
// variable, its name in the official image (TS_), a deprecated name (TAILSCALE_, with a
// warning), a flag in TS_EXTRA_ARGS, the default.
//
// An empty value means unset, except that ROUTER_ROUTES must not be empty: a router without
// routes has none there (an empty TS_ROUTES is unset, as in the official image).
// White space around a value is removed. A value file:PATH is read from that file. An
// unknown ROUTER_ variable is an error, and so is a malformed value: no setting falls back
// to its default silently. A credential in a variable of another kind is an error, and is
// not shown.
//
// `router run` logs warnings, and `router plan` and `router doctor` print them: for a
// deprecated name, a spelling that is overridden by another one with a different value, an
// unread TS_ or TAILSCALE_ variable with a name close to one that is read, and a variable of
// the official image without a meaning here.
//
// # The settings
//
// All settings are in one table, in variables.go: [Load] reads by it, [Usage] prints it,
// and docs/configuration.md is generated from it.
//
// Region, endpoints and credentials of AWS are read by the AWS SDK, from its own
// variables. Some further variables of the official image are refused or cause a warning,
// where ignoring them silently would be surprising.
package config
