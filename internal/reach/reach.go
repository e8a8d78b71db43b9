// Package reach explains why an HTTPS server did not answer: the part of the network that
// failed, and the change that fixes it.
package reach

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"subnetrouter/internal/httpproxy"
)

// Failure is the explanation of one failed request.
type Failure struct {
	// Cause is one line: the part of the network (DNS, route, proxy, TLS), and its error.
	Cause string
	// Fix is the change to make, in the imperative.
	Fix string
	// Clock reports that the certificate is not valid at the time of this machine's clock.
	Clock bool
}

const (
	fixDNS = "allow DNS to the VPC's resolver, enable DNS in the VPC (enableDnsSupport), and set a resolver for public names in its DHCP options"
	fixOut = "allow outbound TCP 443 (security group, network ACL, route to a NAT or internet gateway)"
	// A task in a public subnet without a public address has a route but no answer, too.
	fixRoute = fixOut + "; in a public subnet, assign a public address to the task"
	fixTLS   = "something on the path intercepts TLS with its own certificate: exempt the server from it, or add its certificate authority (SSL_CERT_FILE)"
	fixClock = "set the clock of this machine"
	fixProxy = "correct HTTPS_PROXY, let the proxy accept this host, or exempt it with NO_PROXY"
)

// Get sends one GET request as the engine would, through the proxy of the environment if it
// has one. It returns nil if the server answers, with any status, and otherwise the error and
// its explanation. The caller bounds ctx.
func Get(ctx context.Context, target string) (*Failure, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	transport := httpproxy.Transport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		proxy := ""
		if p, proxyErr := httpproxy.FromEnvironment(req); proxyErr == nil && p != nil {
			proxy = p.Host
		}
		f := Explain(err, proxy)
		return &f, err
	}
	resp.Body.Close()
	return nil, nil
}

// Explain returns the explanation of err, the error of an [http.Client]. proxy is the host of
// the proxy that the request used, or "".
func Explain(err error, proxy string) Failure {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if proxy != "" {
		if f, ok := ofProxy(err, proxy); ok {
			return f
		}
	}
	if f, ok := ofTLS(err); ok {
		return f
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if strings.Contains(dns.Err, "network is unreachable") { // its cause has no type
			return Failure{Cause: "no route: looking up " + dns.Name + ": " + cause(dns), Fix: fixRoute}
		}
		return Failure{Cause: "DNS: looking up " + dns.Name + ": " + cause(dns), Fix: fixDNS}
	}
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		return Failure{Cause: "no route: " + cause(err), Fix: fixRoute}
	}
	if timedOut(err) {
		return Failure{Cause: "no answer in time", Fix: fixRoute}
	}
	return Failure{Cause: cause(err), Fix: fixOut}
}

// ofProxy explains an error up to the proxy's answer to CONNECT. A failure of TLS inside the
// proxy's tunnel is not one.
func ofProxy(err error, proxy string) (Failure, bool) {
	op, dialed := errors.AsType[*net.OpError](err)
	_, dns := errors.AsType[*net.DNSError](err)
	_, isTLS := ofTLS(err)
	switch {
	case isTLS:
		return Failure{}, false
	case dialed && op.Op == "proxyconnect", dns:
		return Failure{Cause: "the proxy " + proxy + ": " + cause(err), Fix: fixProxy}, true
	case dialed || timedOut(err):
		return Failure{Cause: "no answer through the proxy " + proxy + ": " + cause(err), Fix: fixProxy}, true
	}
	// The status line of the answer to CONNECT is an error without a type.
	return Failure{Cause: fmt.Sprintf("the proxy %s refused: %v", proxy, err), Fix: fixProxy}, true
}

func ofTLS(err error) (Failure, bool) {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return Failure{Cause: "TLS: " + invalid.Error(), Fix: fixClock, Clock: true}, true
	}
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	if errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) {
		return Failure{Cause: "TLS: " + err.Error(), Fix: fixTLS}, true
	}
	return Failure{}, false
}

func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// cause returns err without the operations, which the caller describes.
func cause(err error) string {
	if timedOut(err) {
		return "no answer in time"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.Server != "" {
			return dns.Err + " (resolver " + dns.Server + ")"
		}
		return dns.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		if inner, ok := errors.AsType[*net.OpError](op.Err); ok {
			op = inner
		}
		if op.Addr != nil {
			return fmt.Sprintf("%s: %v", op.Addr, op.Err)
		}
		return op.Err.Error()
	}
	return err.Error()
}
