package denylist

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watch calls changed once it is subscribed to changes of the host's addresses, and
// after each change, until ctx ends. Its one file is opened at once and kept, so that
// changes are seen while no further file can be opened.
func watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening netlink socket: %w", err)
	}
	groups := uint32(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return fmt.Errorf("subscribing to address changes: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netlink") // in the runtime's poller: Close ends a Read
	stop := context.AfterFunc(ctx, func() { file.Close() })
	defer func() {
		if stop() {
			file.Close()
		}
	}()
	changed()
	buf := make([]byte, 64<<10)
	for {
		_, err := file.Read(buf)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		// What the messages hold does not matter: the addresses are read as a whole.
		// ENOBUFS means that some were lost, and is one more reason to read.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("reading address changes: %w", err)
		}
		changed()
	}
}
