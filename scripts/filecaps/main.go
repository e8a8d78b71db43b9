//go:build linux

// Command filecaps gives the image's binary its capabilities, for the Dockerfile, whose builder
// has no setcap: filecaps FILE
//
// A later write to the file, or a change of its owner, removes them.
package main

import (
	"fmt"
	"os"
	"syscall"

	"subnetrouter/internal/privilege"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: filecaps FILE")
		os.Exit(2)
	}
	if err := syscall.Setxattr(os.Args[1], privilege.Attribute, privilege.OfFile.AttributeValue(), 0); err != nil {
		fmt.Fprintf(os.Stderr, "filecaps: setting the capabilities of %s: %v: it takes CAP_SETFCAP, and a file system with extended attributes\n", os.Args[1], err)
		os.Exit(1)
	}
}
