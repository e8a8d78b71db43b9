// Package routes is arithmetic on prefixes: what the operator writes in
// ROUTER_ROUTES ([ParseSources]), sets of prefixes ([Normalize], [Exclude],
// [Diff]), Tailscale's 4via6 mapping ([Via], [Unvia]) and what a subnet router
// must never advertise ([Refuse]) or carry ([Denied]).
//
// Everything here is a pure function: nothing is looked up, stored or logged.
package routes
