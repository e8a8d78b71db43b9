// Package routes computes with prefixes: it parses ROUTER_ROUTES ([ParseSources]), operates on
// sets of prefixes ([Normalize], [Exclude], [Diff]), maps IPv4 to 4via6 and back ([Via],
// [Unvia]), and decides which prefixes a subnet router must never advertise ([Refuse]) and
// which addresses it must never forward to ([Denied]).
//
// All functions are pure: they look up, store and log nothing.
package routes
