// Package sandboxed is what makes the router live in the sandbox, and what both
// sides need to know of it. The router links it with the build tag "sandbox"
// only.
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

// VPC is a VPC in another process, whose services listen on loopback. To reach
// it takes no rights.
type VPC struct {
	CIDRs    []netip.Prefix    `json:"cidrs"`
	Services map[string]string `json:"services"` // "tcp/10.0.3.4:80" to a loopback host:port
}

// Env is [Variable] with its value, as in an environment.
func (v VPC) Env() string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // prefixes and strings
	}
	return Variable + "=" + string(text)
}

// Resolve says where on loopback a service listens. Where there is none it is
// refused, and outside of the VPC no host is reached.
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

// Enter puts this process into the sandbox that started it, if one did, and
// returns what finds the VPC there. The process ends with the sandbox, whose
// end closes lifeline, however it comes about.
func Enter(variable string, lifeline io.Reader) func(network string, target netip.AddrPort) (netip.AddrPort, error) {
	OnLoopback()
	var v VPC
	if variable == "" { // `router version`, say
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
