package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
)

// service serves HTTP on port 8080 and UDP on port 7. Both answers contain the address of
// the caller.
func service(ctx context.Context) error {
	udp, err := net.ListenPacket("udp", ":7")
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			udp.WriteTo(fmt.Appendf(nil, "%s to %s", buf[:n], host), from)
		}
	}()
	tcp, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	go http.Serve(tcp, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello from the VPC to %s", host)
	}))
	if err := announce("ready"); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
