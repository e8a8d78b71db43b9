package e2e

import (
	"context"
	"net"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// firstAnswerBound is far above the time of a handshake on a loaded machine, and below the
// 5 s after which a WireGuard client repeats a handshake that it could not send for lack of
// an address. The router avoids that wait: it is reachable before it advertises a route.
const firstAnswerBound = 3 * time.Second

// TestFirstUserDoesNotWait: a client that already sends when the route goes live gets an
// answer at once, both if control approves routes immediately and if it approves them only
// once peers can reach the router.
func TestFirstUserDoesNotWait(t *testing.T) {
	for _, when := range []tailnettest.ApproveWhen{tailnettest.AtOnce, tailnettest.WhenReachable} {
		t.Run(string(when), func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{ApproveWhen: when}})
			w.startClient()
			answered := make(chan time.Time, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go w.sendUntilAnswered(ctx, answered)

			start := time.Now()
			r := w.startRouter(routerOptions{})
			var live time.Time
			w.await("the router to be primary", func(nodes []tailnettest.Node) bool {
				n, ok := tailnettest.Find(nodes, "edge-router")
				if ok && len(n.Primary) > 0 && live.IsZero() {
					live = time.Now()
					if _, ours := w.testControl(); ours && (n.HomeDERP == 0 || len(n.Endpoints) == 0) {
						t.Errorf("the route went live before peers could reach it: %v", n)
					}
				}
				return ok && len(n.Primary) > 0
			})
			at := testwait.Receive(t, "an answer", answered)
			t.Logf("exec to route live %v, live to first answer %v", live.Sub(start).Round(time.Millisecond), at.Sub(live).Round(time.Millisecond))
			if wait := at.Sub(live); wait > firstAnswerBound {
				t.Errorf("the first user waited %v, want less than %v", wait, firstAnswerBound)
			}
			r.awaitReady()
		})
	}
}

// sendUntilAnswered sends a datagram every 20 ms, and the time of the first echo on answered.
func (w *world) sendUntilAnswered(ctx context.Context, answered chan<- time.Time) {
	buf := make([]byte, 100)
	for ctx.Err() == nil {
		conn, err := w.client.Dial(ctx, "udp", net.JoinHostPort(dbHost, "7"))
		if err != nil { // no route yet
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for range 5 {
			conn.Write([]byte("anybody there?"))
			conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := conn.Read(buf); err == nil {
				answered <- time.Now()
				conn.Close()
				return
			}
		}
		conn.Close()
	}
}

// TestWaitsForSecretAndPermission starts a router without its secret and without permission
// to call EC2. It keeps running, reports both as reasons, and joins once they exist.
func TestWaitsForSecretAndPermission(t *testing.T) {
	w := newWorld(t, worldOptions{})
	server, err := awstest.NewServer(selfIP+":0", w.aws)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	secret := w.aws.Secrets[secretName]
	server.Update(func(aws *awstest.World) { aws.Secrets = nil })
	server.Fail("ec2:DescribeVpcs", awstest.Denied("ec2:DescribeVpcs", "*"))
	r := w.startRouter(routerOptions{env: map[string]string{"AWS_ENDPOINT_URL": server.URL(), "ROUTER_BOOT_TIMEOUT": "1s"}})

	r.awaitReason("credential_missing", `calling secretsmanager:GetSecretValue for secret "tailscale/auth-key"`)
	r.awaitReason("routes_unknown", `allow ec2:DescribeVpcs on "*" in the task role's policy`)
	if out, code := r.run("router", "healthcheck"); code != 0 {
		t.Errorf("healthcheck: exit %d: %s; a restart would not help", code, out)
	}
	if out, code := r.run("router", "healthcheck", "--ready"); code != 1 {
		t.Errorf("healthcheck --ready: exit %d, want 1: %s", code, out)
	}
	r.awaitLog("not ready within the boot timeout")
	r.awaitLog(`"msg":"router not ready"`) // the module's alarm counts this line

	server.Fail("ec2:DescribeVpcs", awstest.Failure{})
	server.Update(func(aws *awstest.World) { aws.Secrets = map[string]awstest.Secret{secretName: secret} })
	r.awaitReady()
}
