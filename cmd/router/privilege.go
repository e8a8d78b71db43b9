package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

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
	type result struct {
		privilege.Outcome
		err error
	}
	settled := make(chan result, 1)
	go func() {
		out, err := privilege.Settle(needs(cfg), identity.Dir(cfg.Identity.Source))
		settled <- result{out, err}
	}()
	var out result
	slow := time.NewTimer(slowFolder)
	defer slow.Stop()
	for waiting := true; waiting; {
		select {
		case out = <-settled:
			waiting = false
		case <-slow.C: // a file system on a network may be gone
			log.Warn("the state folder does not answer", "folder", identity.Dir(cfg.Identity.Source))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if out.err != nil {
		return out.err
	}
	switch {
	case out.FolderErr != nil:
		log.Warn("the state folder is not this user's, and was not taken over", "err", out.FolderErr,
			"fix", "give the folder and its files to user "+strconv.Itoa(os.Geteuid())+" (chown -R), or name another folder in ROUTER_STATE or TS_STATE_DIR")
	case out.Folder != "" && out.Owner < 0:
		log.Info("created the state folder", "folder", out.Folder)
	case out.Folder != "":
		log.Info("took over the state folder, with the node's files in it", "folder", out.Folder, "owner_before", out.Owner, "owner", os.Geteuid())
	}
	if out.Kept != 0 {
		log.Info("capabilities dropped", "kept", out.Kept.String())
	}
	if out.Restart {
		events.Flush(restartFlush)
		if ctx.Err() == nil { // as late as possible: the next process does not know of a signal to this one
			log.Debug("replacing the process failed", "err", replace(environ)) // this one continues
		}
	}
	return nil
}

// slowFolder is the time after which a state folder that does not answer is logged.
const slowFolder = 5 * time.Second

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
