package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
)

// dial connects the test, through `docker exec`, with an address that perhaps only this
// container can reach.
func dial(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: world dial host:port")
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		io.Copy(c, os.Stdin)
		c.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, c)
	return err
}
