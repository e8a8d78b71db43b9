package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// publicHost is a host of the Internet, behind the VPC's gateway.
const publicHost, publicHost6 = "198.51.100.7", "3fff::7"

// startVPC starts the hosts of the VPC: each serves HTTP on port 80, echoes UDP on 7 and
// answers DNS on 53. One namespace has all their addresses.
func (w *world) startVPC() {
	w.vpcSwitch.Plug(w.vpc, "eth0", gatewayVPC+"/24", w.gw6.String()+"/64")
	for _, a := range []string{dbHost + "/32", secondHost + "/32", w.host6.String() + "/128"} {
		w.vpc.Address("lo", a)
	}
	for _, host := range []string{dbHost, secondHost, w.host6.String()} {
		w.serveHTTP(host)
		w.serveUDP(net.JoinHostPort(host, "7"), func(query []byte) []byte { return query })
		w.serveUDP(net.JoinHostPort(host, "53"), answerDNS)
	}
}

func (w *world) serveHTTP(host string) {
	ln, err := w.vpc.Listen("tcp", net.JoinHostPort(host, "80"))
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(rw, r.Body)
			return
		}
		if d, err := time.ParseDuration(r.URL.Query().Get("think")); err == nil {
			w.inProgress.Add(1)
			time.Sleep(d)
			w.inProgress.Add(-1)
		}
		if n, err := strconv.Atoi(r.URL.Query().Get("bytes")); err == nil {
			rw.Header().Set("Content-Length", strconv.Itoa(n))
			for chunk := make([]byte, 64<<10); n > 0; n -= len(chunk) {
				rw.Write(chunk[:min(n, len(chunk))])
			}
			return
		}
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(rw, "hello from %s to %s\n", host, from)
	})}
	go srv.Serve(ln)
	w.t.Cleanup(func() { srv.Close() })
}

func (w *world) serveUDP(address string, answer func([]byte) []byte) {
	c, err := w.vpc.ListenPacket("udp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if a := answer(buf[:n]); a != nil {
				c.WriteTo(a, from)
			}
		}
	}()
}

// answerDNS answers a query; it has an A and an AAAA record for one name.
func answerDNS(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true})
	b.StartQuestions()
	b.Question(q)
	b.StartAnswers()
	head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
	if q.Name.String() == "db.internal." && q.Type == dnsmessage.TypeA {
		b.AResource(head, dnsmessage.AResource{A: netip.MustParseAddr(dbHost).As4()})
	}
	msg, err := b.Finish()
	if err != nil {
		return nil
	}
	return msg
}

// serveSession answers datagrams. clients returns the number of distinct clients.
func (w *world) serveSession(address string) (clients func() int) {
	c, err := w.vpc.ListenPacket("udp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	var mu sync.Mutex
	seen := map[string]bool{}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			seen[from.String()] = true
			mu.Unlock()
			c.WriteTo(buf[:n], from)
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}
