package tailnettest

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// DERPRegion is the number of the only DERP region. Numbers from 900 on are reserved for
// private regions.
const DERPRegion = 900

// derpServer is a DERP server and a STUN server.
type derpServer struct {
	derp     *derpserver.Server
	http     *httptest.Server
	stun     *net.UDPConn
	stunDone chan struct{}
}

func startDERP(host netip.Addr, derpPort, stunPort int) (*derpServer, error) {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(host, uint16(derpPort))))
	if err != nil {
		return nil, fmt.Errorf("listening for DERP: %w", err)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, uint16(stunPort))))
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("listening for STUN: %w", err)
	}
	r := &derpServer{
		derp:     derpserver.New(key.NewNode(), logger.Discard),
		stun:     conn,
		stunDone: make(chan struct{}),
	}
	r.http = &httptest.Server{
		Listener: ln,
		Config: &http.Server{
			Handler:  derpserver.Handler(r.derp),
			ErrorLog: log.New(io.Discard, "", 0), // "TLS handshake error" of nodes that go away
			// DERP hijacks the connection, which HTTP/2 does not allow.
			TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		},
	}
	r.http.StartTLS()
	go r.serveSTUN()
	return r, nil
}

func (r *derpServer) serveSTUN() {
	defer close(r.stunDone)
	var buf [1500]byte
	for {
		n, from, err := r.stun.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return
		}
		tx, err := stun.ParseBindingRequest(buf[:n])
		if err != nil {
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		r.stun.WriteToUDPAddrPort(stun.Response(tx, from), from)
	}
}

// derpMap returns a DERP map with only this server.
func (r *derpServer) derpMap() *tailcfg.DERPMap {
	derp := r.http.Listener.Addr().(*net.TCPAddr).AddrPort()
	host := derp.Addr().Unmap().String()
	node := &tailcfg.DERPNode{
		Name:             fmt.Sprintf("%da", DERPRegion),
		RegionID:         DERPRegion,
		HostName:         host,
		IPv4:             host,
		IPv6:             "none",
		STUNPort:         r.stun.LocalAddr().(*net.UDPAddr).Port,
		STUNTestIP:       host,
		DERPPort:         int(derp.Port()),
		InsecureForTests: true, // the certificate is self-signed
	}
	if derp.Addr().Unmap().Is6() {
		node.IPv4, node.IPv6 = "none", host
	}
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[tailcfg.DERPRegionID]*tailcfg.DERPRegion{DERPRegion: {
			RegionID:   DERPRegion,
			RegionCode: "test",
			RegionName: "Test",
			Nodes:      []*tailcfg.DERPNode{node},
		}},
	}
}

func (r *derpServer) close() {
	r.derp.Close()
	r.http.CloseClientConnections()
	r.http.Close()
	r.stun.Close()
	<-r.stunDone
}
