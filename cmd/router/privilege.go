package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"syscall"

	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/privilege"
	"subnetrouter/internal/tailnet"
)

// settle leaves the process the capabilities that the configuration needs, after it has used others for the state folder
// and the TUN device. A process that loses all of them replaces itself, and does not return.
func settle(ctx context.Context, cfg config.Config, environ []string, log *slog.Logger, events *eventlog.Log) error {
	dir := identity.Dir(cfg.Identity.Source)
	out, err := privilege.Settle(needs(cfg), dir)
	if err != nil {
		return err
	}
	switch {
	case out.FolderErr != nil:
		log.Warn("the state folder is not this user's, and was not taken over", "err", out.FolderErr,
			"fix", "give the folder to user "+strconv.Itoa(os.Geteuid())+", or name another one in ROUTER_STATE")
	case out.Folder != "" && out.Owner < 0:
		log.Info("created the state folder", "folder", out.Folder)
	case out.Folder != "":
		log.Info("took over the state folder, with the node's files in it", "folder", out.Folder, "owner_before", out.Owner, "owner", os.Geteuid())
	}
	if out.Kept != 0 {
		log.Info("capabilities dropped", "kept", out.Kept.String())
	}
	if out.Restart && ctx.Err() == nil {
		events.Flush(restartFlush)
		// Without /proc this process continues.
		err := syscall.Exec("/proc/self/exe", os.Args, environ)
		log.Debug("replacing the process failed", "err", err)
	}
	return nil
}

// needs returns what takes a capability while the router runs.
func needs(cfg config.Config) privilege.Need {
	kernel := tailnet.ParseMode(cfg.Mode.String()) == tailnet.ModeKernel
	n := privilege.Need{Kernel: kernel, LowPorts: listensBelow(cfg, privilege.FirstUnprivilegedPort())}
	if !kernel || cfg.Routes.Site != nil { // else the kernel forwards pings
		v4, _ := forward.CanPing()
		n.Ping = v4 != nil
	}
	return n
}

// listensBelow reports whether the router listens on a port of the host below first.
func listensBelow(cfg config.Config, first int) bool {
	ports := []int{int(cfg.UDPPort), int(cfg.PeerRelay)}
	for _, address := range append(cfg.EgressListeners(), cfg.Listen, cfg.DebugListen) {
		if _, port, err := net.SplitHostPort(address); err == nil {
			n, _ := strconv.Atoi(port)
			ports = append(ports, n)
		}
	}
	for _, p := range ports {
		if 0 < p && p < first {
			return true
		}
	}
	return false
}
