// Package routes is arithmetic on prefixes: sets of prefixes ([Normalize], [Exclude],
// [Diff]), Tailscale's 4via6 mapping ([Via], [Unvia]) and what a subnet router
// must never advertise ([Refuse]) or carry ([Denied]).
//
// All functions are pure: they look up, store and log nothing.
package routes
