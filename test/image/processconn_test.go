package image

import (
	"io"
	"net"
	"os/exec"
	"time"
)

// processConn is a net.Conn over the standard input and output of a process.
type processConn struct {
	io.WriteCloser
	out io.Reader
	cmd *exec.Cmd
}

func newProcessConn(cmd *exec.Cmd) (net.Conn, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return processConn{in, out, cmd}, cmd.Start()
}

func (c processConn) Read(b []byte) (int, error) { return c.out.Read(b) }

func (c processConn) Close() error {
	c.WriteCloser.Close()
	c.cmd.Process.Kill()
	c.cmd.Wait() // returns "signal: killed"
	return nil
}

func (processConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (processConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (processConn) SetDeadline(time.Time) error      { return nil }
func (processConn) SetReadDeadline(time.Time) error  { return nil }
func (processConn) SetWriteDeadline(time.Time) error { return nil }
