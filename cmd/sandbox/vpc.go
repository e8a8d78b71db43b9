package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// The services inside the VPC, and an address without one.
var (
	web      = netip.MustParseAddrPort("10.0.3.4:80")
	web6     = netip.MustParseAddrPort("[2001:db8:1234:1a03::4]:80")
	resolver = netip.MustParseAddrPort("10.0.0.2:53") // as in a VPC: its base plus two
	nothing  = netip.MustParseAddrPort("10.0.3.4:81")
)

const (
	webName  = "hello.vpc.internal"
	greeting = "hello from inside the VPC"
)

// vpc runs the services. They listen on loopback; the router maps the addresses of the
// VPC to them.
type vpc struct {
	services map[string]string // "tcp/10.0.3.4:80" to host:port on loopback
	http     *http.Server
	dns      net.PacketConn
}

func newVPC() (*vpc, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		ln.Close()
		return nil, err
	}
	v := &vpc{
		services: map[string]string{
			"tcp/" + web.String():      ln.Addr().String(),
			"tcp/" + web6.String():     ln.Addr().String(),
			"udp/" + resolver.String(): dns.LocalAddr().String(),
		},
		dns: dns,
		http: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, greeting)
		})},
	}
	go v.http.Serve(ln)
	go v.serveDNS()
	return v, nil
}

func (v *vpc) close() error {
	v.dns.Close()
	return v.http.Close()
}

func (v *vpc) serveDNS() {
	buf := make([]byte, 1500)
	for {
		n, from, err := v.dns.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if reply, err := answer(buf[:n]); err == nil {
			v.dns.WriteTo(reply, from)
		}
	}
}

// answer answers a query; it has an A and an AAAA record for one name.
func answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	if len(m.Questions) != 1 {
		return nil, fmt.Errorf("answering %d questions", len(m.Questions))
	}
	q := m.Questions[0]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true}
	m.Additionals = nil
	if q.Name.String() != webName+"." {
		m.RCode = dnsmessage.RCodeNameError
		return m.Pack()
	}
	record := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}}
	switch q.Type {
	case dnsmessage.TypeA:
		record.Body = &dnsmessage.AResource{A: web.Addr().As4()}
	case dnsmessage.TypeAAAA:
		record.Body = &dnsmessage.AAAAResource{AAAA: web6.Addr().As16()}
	default:
		return m.Pack() // NODATA: the name has no such record
	}
	m.Answers = []dnsmessage.Resource{record}
	return m.Pack()
}
