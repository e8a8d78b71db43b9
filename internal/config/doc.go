// Package config reads the router's configuration: environment and flags in,
// one validated [Config] out, or one [*Error] with everything that is wrong.
//
// # How settings are read
//
// Each ROUTER_ variable has a flag of the same name, in lower case with dashes:
// --routes for ROUTER_ROUTES. The first of these counts: the flag, the ROUTER_
// variable, the name that the official image has for it (TS_), an old name
// (TAILSCALE_, with a warning), a flag in TS_EXTRA_ARGS, the default.
//
// An empty value counts as none; only ROUTER_ROUTES must not be empty, as no
// route at all is never meant (an empty TS_ROUTES is none, as in the official
// image). Blanks around a value are dropped. A value file:PATH is read from
// that file. An unknown ROUTER_ variable is an error, and so is a malformed
// value: nothing falls back silently. A credential in a variable that is not for
// one is an error, and is not shown.
//
// `router run` logs warnings, and `router plan` and `router doctor` print the
// same: an old name, a spelling that loses to another one with a different value,
// a TS_ or TAILSCALE_ variable that nothing reads and whose name is close to one
// that is read, a variable of the official image that has no use here.
//
// # The settings
//
// One table, in variables.go, has them all: [Load] reads them by it, [Usage]
// prints it, and docs/configuration.md is generated from it.
//
// Region, endpoints and credentials of AWS are read by the AWS SDK, from its own
// variables. Some further variables of the official image are refused or warned
// about where dropping them silently would surprise.
package config
