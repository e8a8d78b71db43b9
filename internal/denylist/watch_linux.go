package denylist

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watch calls changed once it is subscribed to changes of the host's addresses, and after each
// change, until ctx ends. It opens its only descriptor at the start, so that it keeps working
// when no further file can be opened.
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
		// The content of the messages does not matter, because all addresses are read
		// again. ENOBUFS means that messages were lost, which is a reason to read, too.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("reading address changes: %w", err)
		}
		changed()
	}
}
