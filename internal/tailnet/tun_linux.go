package tailnet

import (
	"fmt"
	"os"

	"subnetrouter/internal/privilege"

	"github.com/tailscale/wireguard-go/tun"
	"golang.org/x/sys/unix"
	"tailscale.com/net/tstun"
	"tailscale.com/types/logger"
)

// openTUN creates the device of kernel mode, and returns its name.
func openTUN(logf logger.Logf) (tun.Device, string, error) {
	opened := privilege.TakeTUN()
	if opened == nil {
		return tstun.New(logf, tunName)
	}
	defer opened.Close()
	file, err := attachTUN(opened)
	if err != nil {
		return nil, "", err
	}
	dev, err := tun.CreateTUNFromFile(file, int(tstun.DefaultTUNMTU()))
	if err != nil {
		return nil, "", err
	}
	name, err := dev.Name()
	if err != nil {
		dev.Close()
		return nil, "", err
	}
	return dev, name, nil
}

// attachTUN makes an open /dev/net/tun the file of the device, with the options of [tun.CreateTUN], and returns a
// copy of it: only from then on can it be polled.
func attachTUN(opened *os.File) (*os.File, error) {
	request, err := unix.NewIfreq(tunName)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(opened.Fd()), unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("creating %s: %w", tunName, err)
	}
	fd, err := unix.FcntlInt(opened.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), privilege.TUN), nil
}
