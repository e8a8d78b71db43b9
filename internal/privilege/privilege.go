// Package privilege uses the capabilities that the image's binary has, and drops them.
//
// The image runs as an unprivileged user. Its binary has the capabilities of [OfFile] as permitted
// ones: the kernel grants those that the container has as well, without making them effective, and
// none if the container forbids new privileges. At a start, [Settle] makes effective what the
// router needs for as long as it runs, takes over a state folder of another user, opens a device that
// only root may open, and drops the rest for good. Every other command drops all with [Drop].
//
// A process of root keeps what it has.
package privilege

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Set is a set of capabilities: bit n is the capability n of the kernel.
type Set uint64

const (
	Chown          Set = 1 << 0  // CAP_CHOWN
	DACOverride    Set = 1 << 1  // CAP_DAC_OVERRIDE
	NetBindService Set = 1 << 10 // CAP_NET_BIND_SERVICE
	NetAdmin       Set = 1 << 12 // CAP_NET_ADMIN
	NetRaw         Set = 1 << 13 // CAP_NET_RAW
)

// OfFile has the capabilities of the image's binary.
const OfFile = Chown | DACOverride | NetBindService | NetAdmin | NetRaw

var names = map[Set]string{
	Chown: "CAP_CHOWN", DACOverride: "CAP_DAC_OVERRIDE", NetBindService: "CAP_NET_BIND_SERVICE",
	NetAdmin: "CAP_NET_ADMIN", NetRaw: "CAP_NET_RAW",
}

// String returns the names of the capabilities that this package uses.
func (s Set) String() string {
	var list []string
	for c, name := range names {
		if s&c != 0 {
			list = append(list, name)
		}
	}
	slices.SortFunc(list, strings.Compare)
	return strings.Join(list, " and ")
}

// low returns the capabilities 0 to 31, and high the others, as the kernel splits them.
func (s Set) low() uint32  { return uint32(s) }
func (s Set) high() uint32 { return uint32(s >> 32) }

// Attribute is the extended attribute in which a file has its capabilities.
const Attribute = "security.capability"

// revision2 marks 64 capabilities, valid in the initial user namespace. Without the flag in
// its lowest bit the capabilities do not become effective, and a process that gets only a part
// of them starts nevertheless.
const revision2 = 0x02000000

// AttributeValue returns the value of [Attribute] that makes s the permitted capabilities of a file.
func (s Set) AttributeValue() []byte {
	var b []byte
	for _, word := range []uint32{revision2, s.low(), 0, s.high(), 0} { // each permitted, then inheritable
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b
}

// Need is what a router does for as long as it runs that takes a capability.
type Need struct {
	Kernel   bool // forwards through a TUN device and the host's network stack
	LowPorts bool // listens on ports that are reserved
	Ping     bool // sends echo requests where the system has no ICMP sockets for this group
}

// keep returns the capabilities of granted that the process keeps.
func (n Need) keep(granted Set) Set {
	var s Set
	if n.Kernel {
		s |= NetAdmin
	}
	if n.LowPorts {
		s |= NetBindService
	}
	if n.Ping {
		s |= NetRaw
	}
	return s & granted
}

// Outcome is the result of [Settle], for the log.
type Outcome struct {
	Kept   Set
	Folder string // the state folder, if it was taken over or created
	Owner  int    // its owner before; -1 if it was created
	// FolderErr is why a state folder that this user cannot use was not taken over.
	FolderErr error
	// Restart is true if the process had capabilities and now has none, except in kernel mode, which cannot work then. The Go runtime hides the stacks of
	// fatal errors from any program that gained privileges, until it replaces itself.
	Restart bool
}

// maxEntries bounds the entries of a state folder that is taken over, its subfolders' included: a node in a tailnet with
// Tailnet Lock keeps hundreds of small files. maxDepth bounds the depth of its subfolders: tka-profiles/PROFILE/xx.
const (
	maxEntries = 4096
	maxDepth   = 4
)

const (
	stateFile    = "tailscaled.state"
	lostAndFound = "lost+found" // of a file system of its own, and root's
)

// ofNode reports whether tailscaled or the router names a file so in its state folder. A folder with other
// files is somebody's: it is not taken over.
func ofNode(name string) bool {
	switch name {
	case "audit-log.json", "certs", "derpmap.cached.json", "files", "profile-data", "ssh", "ssh-sessions", "tka-profiles", // tailscaled's
		lostAndFound,
		".gitignore", ".gitkeep": // of a checkout with an empty folder
		return true
	}
	return strings.HasPrefix(name, "tailscaled.")
}
