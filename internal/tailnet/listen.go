package tailnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"tailscale.com/types/ipproto"
)

// Listen listens on a TCP port of this node's tailnet addresses, in both modes, for the peers that
// the tailnet's access rules allow. The deny list does not apply to such a port. [Node.Start] must
// have returned.
func (n *Node) Listen(port uint16) (net.Listener, error) {
	if !n.Started() {
		return nil, fmt.Errorf("listening on tailnet port %d: %w", port, errors.New("the node has not started"))
	}
	ln, err := n.forwarder.Listen(port)
	if err != nil {
		return nil, err
	}
	n.listening.add(port)
	return ln, nil
}

// Serve delivers TCP to a port of this node's tailnet addresses to the data path, which may forward
// it to a target, in both modes. Port 0 stands for all ports that have no other use, of TCP and UDP; in
// kernel mode without those from which the kernel opens connections. The deny list does not apply to such a port. It may be
// called before [Node.Start].
func (n *Node) Serve(port uint16) { n.serving.add(port) }

// The ports from which Linux opens connections by default. In kernel mode their answers are the
// kernel's.
const firstKernelPort, lastKernelPort = 32768, 60999

// serves reports whether a packet to one of this node's own addresses is for the data path. A
// fragment that is not the first has no port.
func (n *Node) serves(protocol ipproto.Proto, port uint16) bool {
	if protocol == ipproto.TCP && port != 0 && n.serving.has(port) {
		return true
	}
	if !n.serving.has(0) {
		return false
	}
	switch {
	case protocol == ipproto.Fragment:
		return true
	case protocol != ipproto.TCP && protocol != ipproto.UDP, protocol == ipproto.UDP && port == HandoverPort:
		return false
	}
	return n.mode == ModeUserspace || port < firstKernelPort || port > lastKernelPort
}

// Owns reports whether addr is one of this node's tailnet addresses.
func (n *Node) Owns(addr netip.Addr) bool {
	own, ok := n.ownAddress(addr.Is4())
	return ok && own == addr
}

// listeningPorts are the ports of [Node.Listen], or of [Node.Serve]. A port stays when its listener closes: the
// Forwarder then resets connections to it.
type listeningPorts struct {
	mu   sync.Mutex               // serializes add
	list atomic.Pointer[[]uint16] // immutable, so that the data path needs no lock; nil is empty
}

func (l *listeningPorts) add(port uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.has(port) {
		return
	}
	var list []uint16
	if old := l.list.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = append(list, port)
	l.list.Store(&list)
}

func (l *listeningPorts) has(port uint16) bool {
	list := l.list.Load()
	return list != nil && slices.Contains(*list, port)
}
