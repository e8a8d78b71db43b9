package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

func TestRun(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), testwait.Limit())
	defer stop()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, nil, in, io.Discard) }()

	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var got ready
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if got.DERPPort == 0 || got.STUNPort == 0 || got.AdminURL != got.ControlURL+"/test/" {
		t.Errorf("ready: %s", line)
	}
	admin := &tailnettest.Admin{URL: got.ControlURL}
	if _, err := admin.Nodes(ctx); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	got, err := parse([]string{
		"--host=10.1.2.3", "--control-port=80", "--derp-port=443", "--stun-port=3478",
		"--key=k", "--tag=tag:a", "--tag=tag:b", "--approve=10.0.0.0/8,fd00::/8",
		"--approve-when=when-reachable", "--failover=5s",
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	approve := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	want := tailnettest.Config{
		Host: netip.MustParseAddr("10.1.2.3"), ControlPort: 80, DERPPort: 443, STUNPort: 3478,
		Keys: []tailnettest.Key{{Value: "k", Reusable: true, Ephemeral: true, Preauthorized: true, Tags: []string{"tag:a", "tag:b"}}},
		Policy: tailnettest.Policy{
			AutoApprovers: map[string][]netip.Prefix{"tag:a": approve, "tag:b": approve},
			ApproveWhen:   tailnettest.WhenReachable,
			Failover:      5 * time.Second,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"--approve=10.0.0.0/8"}, {"--approve=ten"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
