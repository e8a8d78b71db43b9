// Package sandboxed connects the router to the sandbox, and holds the types that both
// share. The router links it only with the build tag "sandbox".
package sandboxed

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// Variable is the environment variable that carries a [VPC] to the router.
const Variable = "SANDBOX_VPC"

// VPC describes a VPC in another process, whose services listen on loopback. Reaching it
// requires no privileges.
type VPC struct {
	CIDRs    []netip.Prefix    `json:"cidrs"`
	Services map[string]string `json:"services"` // "tcp/10.0.3.4:80" to a loopback host:port
}

// Env returns the assignment of [Variable] for an environment.
func (v VPC) Env() string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // cannot fail: it has only prefixes and strings
	}
	return Variable + "=" + string(text)
}

// Resolve returns the loopback address of a service. The error is ECONNREFUSED for an
// address of the VPC without the service, and EHOSTUNREACH outside of the VPC.
func (v VPC) Resolve(network string, target netip.AddrPort) (netip.AddrPort, error) {
	if loopback, ok := v.Services[network+"/"+target.String()]; ok {
		return netip.ParseAddrPort(loopback)
	}
	reason := syscall.EHOSTUNREACH
	for _, cidr := range v.CIDRs {
		if cidr.Contains(target.Addr()) {
			reason = syscall.ECONNREFUSED
		}
	}
	return netip.AddrPort{}, &net.OpError{
		Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(target),
		Err: os.NewSyscallError("connect", reason),
	}
}

// Enter connects this process to the sandbox that started it and returns the function
// that resolves addresses of the VPC; variable is the value of [Variable], empty if no
// sandbox did. The process exits when lifeline is closed, which happens at the latest
// when the sandbox's process ends.
func Enter(variable string, lifeline io.Reader) func(network string, target netip.AddrPort) (netip.AddrPort, error) {
	OnLoopback()
	var v VPC
	if variable == "" { // such as for `router version`
		return v.Resolve
	}
	if err := json.Unmarshal([]byte(variable), &v); err != nil {
		fmt.Fprintf(os.Stderr, "reading %s: %v\n", Variable, err)
		os.Exit(2)
	}
	go func() {
		io.Copy(io.Discard, lifeline)
		os.Exit(1)
	}()
	return v.Resolve
}
