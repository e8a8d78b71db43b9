package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/tsapi"
)

// TestLoginCodes: every kind of failure has a code, and the code is one of the
// closed set that the metric has.
func TestLoginCodes(t *testing.T) {
	check := func(err error, want string) {
		t.Helper()
		got := loginCode(fmt.Errorf("wrapped: %w", err))
		if !slices.Contains(loginCodes, got) || want != "" && got != want {
			t.Errorf("%v: code %q, want %q", err, got, want)
		}
	}
	for k := awsapi.Other; k <= awsapi.ClockSkew; k++ {
		check(&awsapi.Error{Kind: k}, "")
	}
	for k := tsapi.Other; k <= tsapi.ClockSkew; k++ {
		check(&tsapi.Error{Kind: k}, "")
	}
	for k := tailnet.JoinOther; k <= tailnet.JoinClockSkew; k++ {
		check(&tailnet.JoinError{Kind: k}, "")
	}
	check(bootstrap.ErrNone, codeCredentialMissing)
	check(bootstrap.ErrEmpty, codeCredentialMissing)
	check(bootstrap.ErrMalformed, codeCredentialMalformed)
	check(errors.New("anything"), codeJoin)
}

var testIPs = []netip.Addr{netip.MustParseAddr("100.64.0.7")}

// TestMemberStates: what a person decides about the node, or forgot to, is a
// state with what to do, and membership without any of it is none.
func TestMemberStates(t *testing.T) {
	running := func(change func(*tailnet.Status)) tailnet.Status {
		s := tailnet.Status{Backend: "Running", IPs: testIPs}
		change(&s)
		return s
	}
	denied := &awsapi.Error{Kind: awsapi.Denied}
	for name, tc := range map[string]struct {
		status tailnet.Status
		codes  []string
		fix    string // of the first
	}{
		"member":          {running(func(*tailnet.Status) {}), nil, ""},
		"starting":        {tailnet.Status{Backend: "NeedsLogin"}, []string{codeStarting}, ""},
		"no credential":   {tailnet.Status{Backend: "NeedsLogin", LoginError: denied}, []string{codeCredentialDenied}, ""},
		"device approval": {tailnet.Status{Backend: "NeedsMachineAuth"}, []string{codeDeviceApproval}, "under Machines"},
		"locked out": {running(func(s *tailnet.Status) { s.LockedOut, s.SignCommand = true, "tailscale lock sign nodekey:1 tlpub:2" }),
			[]string{codeLockedOut}, "run on a signing node: tailscale lock sign nodekey:1 tlpub:2"},
		"removed": {running(func(s *tailnet.Status) { s.Removed = true }), []string{codeNodeRemoved}, "second process"},
		"removed, no credential": {running(func(s *tailnet.Status) { s.Removed, s.LoginError = true, denied }),
			[]string{codeNodeRemoved, codeCredentialDenied}, ""},
		"expired": {tailnet.Status{Backend: "NeedsLogin", KeyExpiry: time.Now().Add(-time.Minute)}, []string{codeNodeKeyExpired}, "disable key expiry"},
		"expired, no credential": {tailnet.Status{Backend: "NeedsLogin", KeyExpiry: time.Now().Add(-time.Minute), LoginError: denied},
			[]string{codeNodeKeyExpired, codeCredentialDenied}, ""},
		"expires one day": {running(func(s *tailnet.Status) { s.KeyExpiry = time.Now().Add(time.Hour) }), nil, ""},
	} {
		var codes []string
		first := ""
		addMemberReasons(tc.status, func(code, _, fix string) {
			if codes = append(codes, code); len(codes) == 1 {
				first = fix
			}
		})
		if !slices.Equal(codes, tc.codes) || !strings.Contains(first, tc.fix) {
			t.Errorf("%s: %v with the fix %q, want %v with %q", name, codes, first, tc.codes, tc.fix)
		}
	}
}
