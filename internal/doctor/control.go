package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/reach"
	"subnetrouter/internal/tailnet"
)

func (e *exam) controlURL() string {
	if e.Config.ControlURL == "" {
		return routesource.DefaultControl
	}
	return e.Config.ControlURL
}

func (e *exam) resolveControl(ctx context.Context) (resolution, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	u, err := url.Parse(e.controlURL())
	if err != nil {
		return resolution{}, err
	}
	r := resolution{host: u.Hostname()}
	if a, err := netip.ParseAddr(r.host); err == nil {
		r.addrs = []netip.Addr{a}
		return r, nil
	}
	start := time.Now()
	r.addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", r.host)
	r.took = time.Since(start)
	return r, err
}

func (e *exam) controlName(ctx context.Context) Result {
	r, err := e.resolved.Get(ctx)
	if err != nil {
		return fail(netCause(err), "enable DNS in the VPC (enableDnsSupport), set a resolver for public names in its DHCP options, or correct ROUTER_CONTROL_URL")
	}
	if r.took == 0 {
		return skip(r.host + " is an IP address")
	}
	var all []string
	for _, a := range r.addrs {
		all = append(all, a.Unmap().String())
	}
	return pass(fmt.Sprintf("%s resolves to %s (%v)", r.host, strings.Join(all, ", "), r.took.Round(time.Millisecond)))
}

// controlAnswer describes control's answer to the request for its key, with which every
// login begins.
type controlAnswer struct {
	status string
	code   int
	took   time.Duration
	skew   time.Duration // control's clock minus the local one; valid if dated
	dated  bool
	proxy  string
}

// controlClient uses the proxy of the environment, if any, as the engine does.
var controlClient = &http.Client{Transport: httpproxy.Transport()}

func (e *exam) askControl(ctx context.Context) (a controlAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, tailnet.ControlProbe(e.Config.ControlURL), nil)
	if err != nil {
		return a, err
	}
	if proxy, err := httpproxy.FromEnvironment(req); err == nil && proxy != nil {
		a.proxy = proxy.Host
	}
	start := time.Now()
	resp, err := controlClient.Do(req)
	if err != nil {
		return a, err
	}
	a.took = time.Since(start)
	resp.Body.Close()
	a.status, a.code = resp.Status, resp.StatusCode
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.skew, a.dated = date.Sub(e.Now()), true
	}
	return a, nil
}

func (e *exam) controlReach(ctx context.Context) Result {
	a, err := e.answer.Get(ctx)
	if err != nil {
		f := reach.Explain(err, a.proxy)
		return fail(e.controlURL()+": "+f.Cause, f.Fix)
	}
	value := fmt.Sprintf("%s answered in %v", e.controlURL(), a.took.Round(time.Millisecond))
	if a.proxy != "" {
		value += " through the proxy " + a.proxy
	}
	if a.code != http.StatusOK {
		return fail(fmt.Sprintf("%s answered HTTP %s instead of its key", e.controlURL(), a.status),
			"correct ROUTER_CONTROL_URL: it does not lead to a control server, or a proxy answers instead")
	}
	return pass(value)
}

// Limits of the clock's skew. AWS refuses signatures that are 5 min off; TLS and node keys
// have their own limits.
const (
	warnSkew = 30 * time.Second
	failSkew = 4 * time.Minute
)

func (e *exam) clock(ctx context.Context) Result {
	var skew time.Duration
	var from string
	if a, err := e.answer.Get(ctx); err == nil && a.dated {
		skew, from = a.skew, "the control server"
	} else {
		e.routes.Get(ctx) // which gets an answer from AWS
		aws, ok := e.awsSkew()
		if !ok {
			return skip("no clock to compare with: neither control nor AWS answered")
		}
		skew, from = aws, "AWS"
	}
	value := fmt.Sprintf("within %v of %s", warnSkew, from)
	const fix = "set the host's clock (on EC2 with chrony and 169.254.169.123; on Fargate replace the task): AWS refuses requests whose signature is 5 min off, and TLS may fail"
	switch off := skew.Abs(); {
	case off >= failSkew:
		return fail(offBy(skew)+" "+from, fix)
	case off >= warnSkew:
		return warn(offBy(skew)+" "+from, fix)
	}
	return pass(value)
}

func offBy(skew time.Duration) string {
	if skew > 0 {
		return skew.Round(time.Second).String() + " behind"
	}
	return (-skew).Round(time.Second).String() + " ahead of"
}

// netCause returns the cause of err without the URL and operation, which the line has
// anyway.
func netCause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		if op.Timeout() {
			return "no answer in time"
		}
		if op.Addr != nil {
			return fmt.Sprintf("%s: %v", op.Addr, op.Err)
		}
	}
	return err.Error()
}
