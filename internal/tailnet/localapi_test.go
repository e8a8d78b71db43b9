package tailnet

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestLocalAPIConnectionsAreBounded opens one connection too many: the oldest is closed, and those that
// were closed before do not count.
func TestLocalAPIConnectionsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b := &boundListener{Listener: ln, limit: 3}
	defer b.Close()
	connect := func() (client, server net.Conn) {
		client, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		server, err = b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := server.(*net.UnixConn); !ok {
			t.Errorf("the engine gets a %T, and cannot ask who is there", server)
		}
		return client, server
	}
	for range 10 { // that end
		_, server := connect()
		server.Close()
	}
	var clients []net.Conn
	for range 4 {
		client, _ := connect()
		clients = append(clients, client)
	}
	for i, c := range clients {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		timeout, _ := errors.AsType[net.Error](err)
		if open := timeout != nil && timeout.Timeout(); open != (i > 0) {
			t.Errorf("connection %d is open: %v (%v)", i, open, err)
		}
	}
}
